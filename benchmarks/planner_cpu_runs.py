"""What `benchmarks.planner_cpu` measures: two models on this machine's processor, flag by flag.

A run is one fresh server of real vLLM and the project's own rate search. What it found is kept as
JSON, so that the planner can be held against it again without measuring.
"""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optikit_assets.benchmarker import run_benchmark
from optikit_assets.engines import EngineServer, Flags, ModelFacts, detect, get_engine
from optikit_assets.schemas import CompletedBenchmark
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import CardSpec, EngineSpec, SloSpec
from optikit_assets.specs.card import DenseTflops

ENGINE = get_engine("vllm")
SPEC = EngineSpec(flags={"enforce_eager": True})
DEMO = REPOSITORY / "demo" / "models" / "demo-llama" / "1"
CARD = CardSpec(
    name="cpu",
    accelerator="CPU",
    memory_gib=16,
    memory_bandwidth_gb_s=40,
    dense_tflops=DenseTflops(bf16=0.24, int8=0.48),
    interconnect_gb_s=40,
    cards_per_node=1,
    source="one core of a Zen 4 at 3.7 GHz (vLLM leaves the other of two to its scheduler): 64 "
    "operations on 16-bit floats per cycle; bandwidth assumed. Only proportions matter to a fit.",
)
_SPECIAL_TOKENS = 4
_START_LIMIT_S = 240.0


@dataclass(frozen=True)
class Model:
    """A model, and what is asked of it.

    Attributes
    ----------
    changes
        Of the demo model's configuration; its weights are random then.
    output_tokens, max_ms
        Of every answer, and the bound on 95 % of latencies.
    plain, prefixed, prefix
        Tokens of prompts that share nothing, of those that share a prefix, and of that.
    """

    changes: Mapping[str, int] = field(default_factory=dict)
    output_tokens: int = 16
    max_ms: float = 500.0
    plain: int = 64
    prefixed: int = 320
    prefix: int = 256


MODELS = {
    "demo": Model(),
    # 24 million parameters instead of 2.4: computing outweighs what each step costs anyhow.
    "wide": Model(
        {
            "hidden_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "intermediate_size": 1408,
        },
        output_tokens=24,
        max_ms=1200.0,
        plain=96,
        prefixed=192,
        prefix=128,
    ),
}


@dataclass(frozen=True)
class Setting:
    """Flags of a server, and which workload it is under."""

    name: str
    flags: Flags
    prefixed: bool = False


_SMALL_BATCH: Flags = {"max_num_seqs": 64, "max_num_batched_tokens": 128}
SETTINGS = (
    Setting("default", {}),
    Setting("8 sequences", {"max_num_seqs": 8}),
    Setting("128 tokens a step", _SMALL_BATCH),
    Setting("shared prefix, cached", {}, prefixed=True),
    Setting("4 sequences", {"max_num_seqs": 4}),
    Setting("shared prefix, no cache", {"enable_prefix_caching": False}, prefixed=True),
    Setting("128 tokens, prompts whole", {**_SMALL_BATCH, "enable_chunked_prefill": False}),
)


def slo_of(model: str, prefixed: bool) -> SloSpec:
    """Return the SLO that a model is measured under."""
    spec = MODELS[model]
    shared = {"input_tokens": spec.prefixed, "prefix_tokens": spec.prefix}
    return SloSpec.model_validate({
        "name": f"{model}_prefixed" if prefixed else model,
        "workload": {
            **(shared if prefixed else {"input_tokens": spec.plain}),
            "output_tokens": spec.output_tokens,
        },
        "objectives": [{"metric": "e2e_latency", "percentile": 95, "max_ms": spec.max_ms}],
        # About a minute of load: a measured rate is within 7 % of where the limit is expected.
        "budget": {
            "tolerance": 0.07,
            "min_probe_seconds": 6,
            "max_probe_seconds": 20,
            "min_probe_requests": 40,
            "warmup_requests": 4,
            "closed_loop_requests": 8,
            "max_probes": 10,
            "max_load_seconds": 75,
        },
    })  # fmt: skip


def model_folder(model: str, folder: Path) -> Path:
    """Return a model's files: those that ship, or random ones that are written below `folder`."""
    changes = MODELS[model].changes
    if not changes:
        return DEMO
    made = folder / model
    shutil.copytree(DEMO, made, dirs_exist_ok=True)
    config = json.loads((DEMO / "config.json").read_text(encoding="utf-8")) | dict(changes)
    (made / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (made / "model.safetensors").write_bytes(_safetensors(_random_llama(config)))
    return made


def _random_llama(config: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    head, inner = config["head_dim"], config["intermediate_size"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head

    def drawn(rows: int, columns: int) -> NDArray[np.float32]:
        return rng.normal(0.0, columns**-0.5, (rows, columns)).astype(np.float32)

    ones = np.ones(hidden, np.float32)
    output = drawn(vocabulary, hidden)
    # What prints nothing is never the likeliest, so that every token is seen as it comes.
    output[:_SPECIAL_TOKENS] = 0.0
    found = {
        "model.embed_tokens.weight": drawn(vocabulary, hidden),
        "lm_head.weight": output,
        "model.norm.weight": ones,
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        found |= {
            at + "self_attn.q_proj.weight": drawn(query, hidden),
            at + "self_attn.k_proj.weight": drawn(key, hidden),
            at + "self_attn.v_proj.weight": drawn(key, hidden),
            at + "self_attn.o_proj.weight": drawn(hidden, query),
            at + "mlp.gate_proj.weight": drawn(inner, hidden),
            at + "mlp.up_proj.weight": drawn(inner, hidden),
            at + "mlp.down_proj.weight": drawn(hidden, inner),
            at + "input_layernorm.weight": ones,
            at + "post_attention_layernorm.weight": ones,
        }
    return found


def _safetensors(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return a file of BF16 tensors in the format's published layout."""
    header: dict[str, object] = {}
    parts: list[bytes] = []
    size = 0
    for name, values in tensors.items():
        # A BF16 is the upper half of a 32-bit float.
        part = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16", "shape": values.shape, "data_offsets": [size, size + len(part)]
        }  # fmt: skip
        parts.append(part)
        size += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


class Serving:
    """Starts servers of the models in a serve environment."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        self._python = python
        self._models = {name: model_folder(name, folder) for name in MODELS}
        self._starts = 0
        self.version = _version(python)

    def server(
        self, model: str, slo: SloSpec, tuned: Flags, env: Mapping[str, str] | None = None
    ) -> EngineServer:
        """Return a server of a model with some flags, not yet started."""
        folder = self._models[model]
        flags = ENGINE.flags(
            SPEC, slo, tuned, hardware=detect(), facts=ModelFacts.read(folder)
        )  # fmt: skip
        self._starts += 1
        config = self.folder / f"{self._starts}.yaml"
        config.write_text(ENGINE.config_text(flags, model=str(folder), served_model_name=model))
        return EngineServer(
            ENGINE,
            config,
            log_file=self.folder / f"{self._starts}.log",
            python=self._python,
            env=env,
            cache_dir=self.folder / "cache",
            timeout_s=_START_LIMIT_S,
        )

    def requests_file(self) -> Path:
        """Return where the timelines of the server that was made last go."""
        return self.folder / f"{self._starts}.jsonl.gz"


def _version(python: Path) -> dict[str, str]:
    """Return the versions of the engine's distributions in an environment."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "known = {d.metadata['Name'] for d in m.distributions()}\n"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:] if n in known}))"
    )
    said = subprocess.run(
        [python, "-c", code, *ENGINE.distributions],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    return json.loads(said)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keep what is started meanwhile on one core; None: wherever it likes."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measured(base_url: str, model: str, slo: SloSpec, seed: int, requests: Path) -> dict[str, Any]:
    """Search the highest rate as `optikit bench` does; return what is kept of it."""
    found = run_benchmark(
        base_url=base_url,
        model=model,
        slo=slo,
        seed=seed,
        requests_file=requests,
        requests=ENGINE.requests,
        on_probe=lambda p: print(
            f"  {p.kind} {p.rate_rps:.3g}/s {p.verdict}: {p.reason}", flush=True
        ),
    )
    return kept(found)


def kept(found: CompletedBenchmark) -> dict[str, Any]:
    """Return what is kept of a benchmark."""
    probes = [probe for probe in found.probes if probe.kind == "open"]
    above = [p.rate_rps for p in probes if p.rate_rps > found.certified_rate_rps and not p.met]
    return {
        "status": found.status,
        "certified_rps": found.certified_rate_rps,
        "next_failing_rps": min(above, default=None),
        "estimate_rps": found.estimate_rps,
        "interval_rps": found.rate_ci_rps,
        "load_seconds": found.load_seconds,
        "reason": found.reason,
        "ladder": [rung.model_dump() for rung in found.ladder],
        "probes": [
            {
                "rate_rps": p.rate_rps,
                "verdict": p.verdict,
                "met": p.met,
                "requests": p.requests,
                "client_cores": p.client_cores,
            }
            for p in found.probes
        ],
    }


def off(predicted_rps: float, measured_rps: float | None) -> float:
    """Return how far a prediction is from what was measured, relative to it; nan: nothing was."""
    return predicted_rps / measured_rps - 1.0 if measured_rps else math.nan


def shown(predicted_rps: float, run: Mapping[str, Any]) -> dict[str, str]:
    """Return what was measured and how far a prediction is from it, as cells of a table."""
    measured, limit = run["certified_rps"], run["estimate_rps"]
    return {
        "measured": _number(measured or None),
        "next that failed": _number(run["next_failing_rps"]),
        "limit expected at": _number(limit),
        "error": _share(off(predicted_rps, measured)),
        "of that limit": _share(off(predicted_rps, limit)),
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.0%}"
