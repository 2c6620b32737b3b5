"""What `make demo-real` makes ready: specs and data that fit together, with and without files."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from demo.real.furnish import MODEL, DataFolder, furnish
from optikit_assets.errors import OptikitError
from optikit_assets.optimizer.calibration import load_texts
from optikit_assets.optimizer.contamination import check_contamination, read_items
from optikit_assets.specs import Catalog
from optikit_assets.stateval.task_files import needs_network, task_files

QUESTION = (
    "Ann has three shelves with seven books each and gives four books away. How many are left"
)


def lines(*rows: Mapping[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    found = DataFolder(tmp_path / "data")
    (found.punctuation / "tokenizers" / "punkt_tab").mkdir(parents=True)
    texts = {
        "ifeval.jsonl": lines({"key": 1, "prompt": "Say hello without commas."}),
        "gsm8k_test.jsonl": lines({"question": f"{QUESTION}?", "answer": "#### 17"}),
    }
    worked = [
        {"question": f"How much is six and {n}?", "answer": f"#### {n + 6}"} for n in range(9)
    ]
    for name, file in found.items.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(texts[name])
    found.training_items.write_text(lines(*worked))
    found.trace.parent.mkdir()
    rows = "2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.99,396,109\n"
    found.trace.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a place that has the model already."""
    (tmp_path / "root" / "models" / MODEL / "1").mkdir(parents=True)
    return tmp_path / "root"


def catalog(root: Path) -> Catalog:
    found = Catalog.load(root / "recipes")
    assert not found.problems
    return found


def test_the_specs_name_what_lies_beside_them(root: Path, data: DataFolder) -> None:
    variables = furnish(root, root, data)
    assert variables["NLTK_DATA"] == str(data.punctuation)
    specs = catalog(root)
    spec = specs.model(MODEL)
    folder = specs.task_folder(spec.suite)
    assert folder is not None
    suite = specs.suite(spec.suite)
    assert {task.task for task in suite.tasks} == task_files(folder).keys()
    assert not needs_network(suite, task_files(folder))
    for job in ("assistant", "conversation"):
        assert set(specs.job(job).slos) <= set(specs.names("slos"))
        assert set(specs.job(job).recipes) == set(spec.recipes)
    assert specs.slo("conversation").workload.mean_input_tokens == 385
    # Conversations to calibrate with, and neither items nor worked examples are among them.
    rows = list(load_texts(str(spec.calibration_data), repo_root=root))
    assert len(rows) == 6
    check_contamination(rows, read_items(folder))
    seen = {"messages": [{"role": "user", "content": f"{QUESTION}?"}]}
    (root / "calibration.jsonl").write_text(lines(seen))
    rows = load_texts(str(spec.calibration_data), repo_root=root)
    with pytest.raises(OptikitError):
        check_contamination(rows, read_items(folder))


def test_to_furnish_twice_changes_nothing(root: Path, data: DataFolder) -> None:
    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}

    furnish(root, root, data)
    before = content()
    furnish(root, root, data)
    assert content() == before


def test_without_a_folder_the_data_are_the_hubs_and_the_trace_is_left_out(
    root: Path, data: DataFolder
) -> None:
    furnish(root, root, data)
    assert "NLTK_DATA" not in furnish(root, root, None)
    specs = catalog(root)
    spec = specs.model(MODEL)
    assert {task.task for task in specs.suite(spec.suite).tasks} == {"ifeval", "gsm8k"}
    assert str(spec.calibration_data).startswith("hf:")
    assert set(specs.names("jobs")) == {"assistant"}
    assert not list((root / "recipes").rglob("*.jsonl"))


def test_a_folder_that_lacks_something_says_what(data: DataFolder) -> None:
    data.check()
    data.trace.unlink()
    with pytest.raises(OptikitError, match=r"lacks azure_traces/Azure.*_conv\.csv: name another"):
        data.check()
