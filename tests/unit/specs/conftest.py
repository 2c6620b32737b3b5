from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """\
name: int_w8a8
description: example
backend: llmcompressor
modifiers:
  - {type: smoothquant, smoothing_strength: 0.8}
  - {type: gptq, scheme: W8A8}
calibration: {samples: 256, max_sequence_length: 512, sampler: random}
trials: 5
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write ``recipes/quantization/int_w8a8.yaml`` (or another file) and return its path."""

    def write_file(text: str = RECIPE, name: str = "quantization/int_w8a8.yaml") -> Path:
        file = tmp_path / "recipes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write_file


@pytest.fixture
def catalog_root(write: Write, tmp_path: Path) -> Path:
    """Return a small recipes folder in which everything refers to something that exists."""
    write()
    write("name: baseline\nbackend: none\n", "quantization/baseline.yaml")
    write(
        "name: default\nparameters: {max_num_seqs: {choices: [64, 128]}}\n",
        "search_spaces/default.yaml",
    )
    write("name: chat\nworkload: {input_tokens: 100, output_tokens: 10}\n", "slos/chat.yaml")
    write(
        "name: paper\ntask_folder: tasks\ntasks: [{task: a, metrics: [acc]}]\n",
        "evaluations/paper.yaml",
    )
    write("task: a\n", "evaluations/tasks/a.yaml.txt")
    write("name: m\nsource: models/m\n", "models/m.yaml")
    write("name: night\nmodel: m\nslos: [chat]\nrecipes: [int_w8a8]\n", "jobs/night.yaml")
    return tmp_path / "recipes"
