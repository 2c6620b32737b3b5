"""The SLO files are the paper's Table 2."""

from pathlib import Path

import pytest

from optikit_assets.specs import JobSpec, SloSpec, load_spec

RECIPES = Path(__file__).parents[3] / "recipes"

TABLE_2 = {
    "llama70b_throughput": (5000, 500, 0, []),
    "qwen7b_chat": (1200, 80, 0, ["e2e_latency_p95 <= 500"]),
    "mistral24b_rag": (3000, 200, 2000, ["e2e_latency_p95 <= 1500"]),
    "mistral24b_longform": (1500, 1500, 1000, ["ttft_p50 <= 50", "tpot_p50 <= 10"]),
}


@pytest.mark.parametrize("name", TABLE_2)
def test_slo_file_equals_the_papers_row(name):
    slo = load_spec(RECIPES / "slos" / f"{name}.yaml", SloSpec)
    load = slo.workload
    bounds = [f"{o.label} <= {o.max_ms:g}" for o in slo.objectives]
    assert (load.input_tokens, load.output_tokens, load.prefix_tokens, bounds) == TABLE_2[name]
    assert slo.search_space == "default"


def test_paper_jobs_cover_every_paper_slo():
    jobs = [load_spec(file, JobSpec) for file in sorted((RECIPES / "jobs").glob("paper_*.yaml"))]
    assert {slo for job in jobs for slo in job.slos} == set(TABLE_2)
    assert all(job.recipes == ("fp8_dynamic", "int_w8a8", "int_w4a16") for job in jobs)
