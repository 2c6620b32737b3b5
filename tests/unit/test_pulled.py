"""What the round trip is judged by sees every difference."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.pulled import differences


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    model, bundle = tmp_path / "certified" / "model", tmp_path / "certified" / "bundle"
    model.mkdir(parents=True)
    bundle.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    (bundle / "vllm.yaml").write_text(yaml.safe_dump({"model": str(model), "max-num-seqs": 8}))
    (bundle / "deployment.json").write_text("{}")
    (bundle / "report.html").write_text("<p>proof</p>")
    return bundle


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("model/model.safetensors", "Weights", ["model.safetensors differs"]),
        ("model/config.json", None, ["config.json is missing"]),
        ("model/extra.bin", "", ["extra.bin was not sent"]),
        ("bundle/report.html", None, ["report.html differs"]),
        ("bundle/README.md", "how to serve it", []),
        ("bundle/vllm.yaml", "{model: /mnt/models, max-num-seqs: 8}", []),
        ("bundle/vllm.yaml", "{model: /mnt/models, max-num-seqs: 9}", ["the flags are"]),
    ],
)
def test_every_difference_is_told(
    certified: Path, tmp_path: Path, file: str, content: str | None, told: list[str]
) -> None:
    pulled = tmp_path / "pulled"
    shutil.copytree(certified.parent, pulled)
    assert differences(pulled, certified) == []
    if content is None:
        (pulled / file).unlink()
    else:
        (pulled / file).write_text(content)
    found = differences(pulled, certified)
    assert [line[: len(known)] for line, known in zip(found, told, strict=True)] == told
