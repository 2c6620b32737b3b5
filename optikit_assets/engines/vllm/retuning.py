"""Have a running vLLM server go on with other limits, through a scheduler of our own."""

import http.client
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from optikit_assets.engines.flags import Flags, integer
from optikit_assets.errors import EndpointError
from optikit_assets.specs.search_space import Scalar

HOT_FLAGS = frozenset(
    {
        "max_num_seqs",
        "max_num_active_seqs",
        "max_num_batched_tokens",
        "long_prefill_token_threshold",
    }
)
SCHEDULER = "optikit_assets.engines.vllm.retunable_scheduler.RetunableScheduler"
FILE_VARIABLE = "OPTIKIT_RETUNING_FILE"
"""Names the file that the scheduler reads its limits from."""
LIMITS, ANSWER = "limits.json", "taken.json"
_UNSET = 2**31 - 1
_PATIENCE_S = 60.0


def retunable(variants: Sequence[Mapping[str, Scalar]]) -> Flags:
    """Return the flags of a server whose limits leave room for all of `variants`."""
    flags = {n: v for n, v in variants[0].items() if n not in HOT_FLAGS}
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        # Left at its default in one of them, the server's own default has to do for all.
        values = [integer(variant.get(name)) for variant in variants]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            flags[name] = max(known)
    return {**flags, "scheduler_cls": SCHEDULER}


def limits_of(flags: Mapping[str, Scalar]) -> dict[str, int]:
    """Return what the scheduler is told; a limit that is not set is as high as the server's."""
    requests = (integer(flags.get(name)) for name in ("max_num_active_seqs", "max_num_seqs"))
    return {
        "max_num_active_reqs": min((n for n in requests if n is not None), default=_UNSET),
        "max_num_scheduled_tokens": integer(flags.get("max_num_batched_tokens")) or _UNSET,
        "long_prefill_token_threshold": integer(flags.get("long_prefill_token_threshold")) or 0,
    }


def reconfigure(
    scratch: Path, host: str, port: int, flags: Mapping[str, Scalar], *, served_model_name: str
) -> None:
    """Write the limits, have one token made so that a step is scheduled, and read the answer."""
    limits, answer = limits_of(flags), scratch / ANSWER
    answer.unlink(missing_ok=True)
    part = scratch / f"{LIMITS}.part"
    part.write_text(json.dumps(limits), encoding="utf-8")
    part.replace(scratch / LIMITS)
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE_S)
    body = json.dumps({"model": served_model_name, "prompt": [1], "max_tokens": 1})
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body, headers)
        status = connection.getresponse().status
        taken = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise EndpointError(f"vLLM did not take the limits {limits}: {error!r}") from error
    finally:
        connection.close()
    asked = {name: value for name, value in limits.items() if value != _UNSET}
    if status != http.client.OK or any(taken.get(n) != value for n, value in asked.items()):
        raise EndpointError(f"vLLM took the limits {taken} instead of {asked} (HTTP {status})")
