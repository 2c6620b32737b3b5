"""What the planner learns from a history: closed loops of sweeps, and no others."""

import json
from datetime import timedelta

from optikit_assets.planner import OWN_ROWS
from tests.unit.history.conftest import EPOCH

KEY = "qwen@1/baseline/chat"


def test_the_rungs_of_sweeps_come_newest_first_with_lengths_and_flags(history, rows):
    lengths = {"input_tokens": 500, "output_tokens": 50, "flags": {"tensor_parallel_size": 2}}
    rows.sweep("baseline", 2.0, content_key=KEY, **lengths)
    rows.sweep("fp8_dynamic", 2.0, content_key="unsaid", flags=None)
    # Tried at flags of its own, whose speed the planner does not predict.
    rows.trial("baseline", 3, 9.0, content_key=KEY, flags={"max_num_seqs": 8})
    for clients in (1, 2):
        rung = {
            "recipe": "baseline", "slo": "chat", "content_key": KEY, "clients": clients,
            "throughput_rps": 1.0, "latency_s": float(clients), "versions": {"vllm": "1"},
            "accelerator": "NVIDIA H100", "ended_at": EPOCH + timedelta(seconds=clients),
        }  # fmt: skip
        rows.add("ladder_rungs", stage="sweep", **rung)
        rows.add("ladder_rungs", stage="tuning", trial=3, **rung)
        rows.add("ladder_rungs", stage="sweep", **rung | {"content_key": "unsaid"})
    stuck = rung | {"clients": 4, "latency_s": None}
    rows.add("ladder_rungs", stage="sweep", **stuck)
    history.drain()
    found = history.query(OWN_ROWS)
    assert list(found["clients"]) == [2, 1]
    assert list(found["input_tokens"]) == [500, 500]
    assert list(found["output_tokens"]) == [50, 50]
    assert [json.loads(flags) for flags in found["flags"]] == 2 * [{"tensor_parallel_size": 2}]
