"""Which environment variables reach a worker or a server, and which of them a result depends on.

Only what is named here reaches a process that makes or measures something, so that two machines
with the same recorded variables run the same thing. Three kinds:

plumbing     where files lie, how the network is reached: passed on, part of no version
credentials  of hubs and endpoints, and of the object store in use: passed to workers, never to a
             server, recorded nowhere; those of Dagster's own databases to nobody
effective    what may change the outcome (``LD_PRELOAD``, ``NCCL_*`` …, an engine's own): passed on,
             part of the runtime's version and of the deployed bundle

``OPTIKIT_PASS_ENVIRONMENT=NAME,PREFIX_*`` adds variables of one's own to the effective ones.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PASS_VARIABLE = "OPTIKIT_PASS_ENVIRONMENT"

_PLUMBING = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM", "TMPDIR", "TMP",
    "TEMP", "XDG_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "all_proxy", "HF_*", "NLTK_DATA", "OPTIKIT_*", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)  # fmt: skip
_CREDENTIALS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "OPTIKIT_ENDPOINT_CREDENTIALS",
    "OPTIKIT_JUDGE_API_KEY", "OPTIKIT_JUDGE_CREDENTIALS",
)  # fmt: skip
# Of Dagster's own databases, which no worker opens.
_CONTROL = ("OPTIKIT_POSTGRES_*",)
_EFFECTIVE = (
    "ATEN_*", "BLIS_*", "CUBLAS_*", "CUDA_*", "CUDNN_*", "DNNL_*", "FLASHINFER_*",
    "GLIBC_TUNABLES", "GLOO_*", "GOMP_*", "KMP_*", "LD_LIBRARY_PATH", "LD_PRELOAD", "MALLOC_*",
    "MKL_*", "NCCL_*", "NVIDIA_*", "OMP_*", "ONEDNN_*", "OPENBLAS_*", "PYTORCH_*",
    "TOKENIZERS_PARALLELISM", "TORCHINDUCTOR_*", "TORCH_*", "TRITON_*", "UCX_*",
)  # fmt: skip
# Set by OptiKIT itself from the flags, the lease and the state folder, or without a meaning for the
# outcome: what is deployed with the same flags has to behave as it was measured.
_OWNED = ("OMP_NUM_THREADS", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")


@dataclass(frozen=True)
class EngineVariables:
    """Variables that only engines read: names, or prefixes that end in ``*``.

    Parameters
    ----------
    effective
        What may change what an engine does.
    owned
        Those of them that OptiKIT sets itself, or that mean nothing for the outcome.
    """

    effective: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()

    @classmethod
    def union(cls, several: Iterable["EngineVariables"]) -> "EngineVariables":
        """Return the variables of several engines."""
        every = list(several)
        return cls(
            tuple(name for one in every for name in one.effective),
            tuple(name for one in every for name in one.owned),
        )

    def without(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that no engine reads."""
        return {k: v for k, v in variables.items() if not _named(k, self.effective)}


def effective_variables(environ: Mapping[str, str], engine: EngineVariables) -> dict[str, str]:
    """Return the variables that may change what a worker or a server does, sorted by name."""
    own = tuple(part.strip() for part in environ.get(PASS_VARIABLE, "").split(",") if part.strip())
    return {
        name: value
        for name, value in sorted(environ.items())
        if _named(name, (*_EFFECTIVE, *engine.effective, *own))
        and not _named(name, (*_OWNED, *engine.owned, *_PLUMBING))
        and not (_SECRET.search(name) and name != "TOKENIZERS_PARALLELISM")
    }


def worker_variables(
    environ: Mapping[str, str], engine: EngineVariables, store: Iterable[str] = ()
) -> dict[str, str]:
    """Return what reaches a worker: plumbing, credentials and the effective variables.

    Parameters
    ----------
    environ
        Of the process that starts it.
    engine
        Variables of the engines.
    store
        What the artifact store that it uses asks for (`ArtifactStore.variables`): other clouds are
        none of its business.
    """
    credentials = (*_CREDENTIALS, *store)
    return {
        **_plumbing(environ),
        **{name: value for name, value in environ.items() if _named(name, credentials)},
        **effective_variables(environ, engine),
    }


def server_variables(environ: Mapping[str, str], engine: EngineVariables) -> dict[str, str]:
    """Return what reaches an inference server: plumbing and the effective variables."""
    return {**_plumbing(environ), **effective_variables(environ, engine)}


def _plumbing(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if _named(name, _PLUMBING) and not _named(name, (*_CREDENTIALS, *_CONTROL))
    }


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in patterns
    )
