"""Every example of ``docs/workloads.md`` is an SLO file that loads."""

import re
from pathlib import Path

import pytest
import yaml

from optikit_assets.specs import SloSpec, Workload, load_spec
from tests.unit.specs.conftest import Write
from tests.unit.specs.test_workload import AZURE

PAGE = (Path(__file__).parents[3] / "docs" / "workloads.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: yaml.safe_load(text)["name"])
def test_example_loads(write: Write, text: str) -> None:
    write(AZURE, "slos/traces/azure_code.csv")
    write('{"messages": [{"role": "user", "content": "a"}]}', "slos/prompts/support.jsonl")
    slo = load_spec(write(text, f"slos/{yaml.safe_load(text)['name']}.yaml"), SloSpec)
    assert slo.workload.max_output_tokens >= slo.workload.mean_output_tokens >= 1


def test_page_names_every_key_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*?) ?\|$", PAGE, re.MULTILINE))
    assert set(rows) == set(Workload.model_fields)
    defaults = {key: field.default for key, field in Workload.model_fields.items()}
    for key in ("prefix_tokens", "prefixes", "arrivals", "burstiness", "endpoint"):
        value = defaults[key]
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        assert rows[key].strip("`") == shown
