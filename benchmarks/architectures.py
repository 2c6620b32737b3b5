"""Every shipped recipe on tiny models of five architectures: made, served, or refused and why.

``python -m benchmarks.architectures [--rows 24] [--length 128] [--autoround-steps 4]
[--architectures Llama …] [--recipes int_w8a8 …] [--write docs/recipes.md]`` builds the models with
random weights, carries the recipes out as the compress worker does, loads in vLLM whatever this
machine can serve, and exits with 1 if anything was neither made nor refused before compute.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.architecture_stages import ARCHITECTURES
from benchmarks.tables import markdown, write_section
from optikit_assets.artifacts import Reference
from optikit_assets.engines import Hardware, detect
from optikit_assets.engines.vllm.support import unsupported
from optikit_assets.errors import CompressionError, OptikitError
from optikit_assets.model_files import read_config
from optikit_assets.optimizer import check_plan, expert_count, read_linear_layers
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog, EngineSpec, RecipeSpec, digest

SECTION = "architectures"
CALIBRATION = REPOSITORY / "demo" / "calibration.jsonl"
TOKENIZER = REPOSITORY / "demo" / "models" / "demo-llama" / "1"
_SEED = 7


@dataclass(frozen=True)
class Effort:
    """How much less is computed than the recipes say."""

    rows: int
    length: int
    autoround_steps: int

    def request(self, recipe: RecipeSpec, model: Path, store: Path) -> dict[str, Any]:
        """Return the compress worker's request for one trial of a recipe."""
        content = {**recipe.model_dump(mode="json"), "trials": 1}
        if recipe.calibration:
            content["calibration"] |= {"samples": self.rows, "max_sequence_length": self.length}
        for modifier in content["modifiers"]:
            if modifier["type"] == "autoround":
                modifier["iters"] = self.autoround_steps
        key = digest([model.name, content])
        return {
            "store": store.absolute().as_uri(),
            "model": Reference.to(model, "model", "model").model_dump(mode="json"),
            "recipe": content,
            "calibration_data": Reference.to(CALIBRATION, "file", "rows").model_dump(mode="json"),
            "trials": [{"trial": 0, "seed": _SEED, "artifact_key": key}],
        }


class Table:
    """What became of every recipe on every architecture.

    Parameters
    ----------
    recipes
        By name, in the order of the rows.
    hardware
        Machine that serves.
    folder
        Where models and checkpoints go.
    """

    def __init__(self, recipes: Mapping[str, RecipeSpec], hardware: Hardware, folder: Path) -> None:
        self.recipes, self.hardware, self.folder = recipes, hardware, folder
        self.refused: dict[str, str] = {}
        self.not_served: dict[str, str] = {}
        self.compressed: dict[str, dict[str, Any]] = {}
        self.served: dict[str, dict[str, Any]] = {}
        self.weights: dict[str, int] = {}

    def fill(self, architectures: Sequence[str], effort: Effort) -> None:
        """Build the models and carry everything out, one environment after the other."""
        models = {name: self.folder / "models" / name for name in architectures}
        job = {"folder": str(self.folder / "models"), "tokenizer": str(TOKENIZER)}
        self._stage("compress", "models", {**job, "architectures": list(architectures)})
        requests: dict[str, Any] = {}
        for name, model in models.items():
            for recipe in self.recipes.values():
                cell = f"{name}/{recipe.name}"
                self._ask(cell, recipe, model)
                if not recipe.is_baseline and cell not in self.refused:
                    requests[cell] = effort.request(recipe, model, self.folder / "store")
        self.compressed = self._stage("compress", "compress", {"requests": requests})
        checkpoints = {
            str(model): {
                cell: made["path"]
                for cell, made in self.compressed.items()
                if cell.startswith(f"{name}/") and "path" in made and cell not in self.not_served
            }
            for name, model in models.items()
        }
        texts = {"texts": str(CALIBRATION), "models": checkpoints}
        self.served = self._stage("serve", "serve", texts)
        for name, model in models.items():
            self.weights[name] = sum(file.stat().st_size for file in model.glob("*.safetensors"))
            self.served[f"{name}/baseline"] = self.served.pop(str(model))

    def _ask(self, cell: str, recipe: RecipeSpec, model: Path) -> None:
        config = read_config(model)
        experts = expert_count(config) > 0
        reason = unsupported(recipe, EngineSpec(), self.hardware, experts=experts)
        if reason is not None:
            self.not_served[cell] = reason.partition(": ")[2]
        try:
            check_plan(recipe, config, layers=read_linear_layers(model))
        except CompressionError as error:
            self.refused[cell] = str(error).partition(": ")[2]

    def _stage(self, environment: str, stage: str, job: Mapping[str, Any]) -> dict[str, Any]:
        """Run one stage; what it prints goes to a log beside the job.

        Raises
        ------
        OptikitError
            If it did not end well, with the log.
        """
        file = self.folder / f"{stage}.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        python = settings().envs_home / "envs" / environment / "bin" / "python"
        command = [str(python), "-m", "benchmarks.architecture_stages", stage, str(file)]
        log = file.with_suffix(".log")
        with log.open("wb") as stream:
            done = subprocess.run(
                command,
                cwd=REPOSITORY,
                env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise OptikitError(f"stage {stage} ended with {done.returncode}: {tail}")
        return json.loads(file.with_suffix(".answers.json").read_text(encoding="utf-8"))

    def died(self) -> list[str]:
        """Return what was neither made and, where it can be, served, nor refused before."""
        return [
            f"{cell}: {answer['failed']}"
            for answers in (self.compressed, self.served)
            for cell, answer in answers.items()
            if "failed" in answer
        ]

    def render(self, architectures: Sequence[str]) -> str:
        """Return the Markdown table and the reasons that its numbers stand for."""
        notes: dict[str, int] = {}
        rows = [
            {"Recipe": f"`{recipe}`"}
            | {name: self._cell(f"{name}/{recipe}", notes) for name in architectures}
            for recipe in self.recipes
        ]
        reasons = [f"{number}. {reason}" for reason, number in notes.items()]
        return "\n".join([markdown(rows), "", *reasons]) if reasons else markdown(rows)

    def _cell(self, cell: str, notes: dict[str, int]) -> str:
        def note(reason: str) -> str:
            return f"({notes.setdefault(reason, len(notes) + 1)})"

        if cell in self.refused:
            return f"refused {note(self.refused[cell])}"
        text = ""
        if not cell.endswith("/baseline"):
            made = self.compressed[cell]
            if "failed" in made:
                return f"died {note(made['failed'])}"
            share = made["bytes"] / self.weights[cell.partition("/")[0]]
            text = f"{share:.0%}, {made['seconds']:.1f} s, {made['cosine']:.3f}; "
        if cell in self.not_served:
            return f"{text}not here {note(self.not_served[cell])}"
        answer = self.served[cell]
        if "failed" in answer:
            return f"{text}died {note(answer['failed'])}"
        return f"{text}{answer['perplexity']:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write it into a file; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=24, help="calibration rows at most")
    parser.add_argument("--length", type=int, default=128, help="tokens per row at most")
    parser.add_argument("--autoround-steps", type=int, default=4, help="steps per decoder block")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--recipes", nargs="+", help="the baseline and these; default: all")
    parser.add_argument("--write", type=Path, help=f"file with a section {SECTION}")
    options = parser.parse_args(arguments)
    effort = Effort(options.rows, options.length, options.autoround_steps)
    try:
        known = Catalog.load(settings().recipes).recipes
        chosen = ["baseline", *(options.recipes or sorted(set(known) - {"baseline"}))]
        recipes = {name: known[name] for name in dict.fromkeys(chosen)}
        with tempfile.TemporaryDirectory() as folder:
            table = Table(recipes, detect(), Path(folder))
            table.fill(options.architectures, effort)
        made = table.render(options.architectures)
        if options.write is None:
            print(made)
        else:
            write_section(options.write, SECTION, made)
        for line in table.died():
            print(f"died: {line}", file=sys.stderr)
        return 1 if table.died() else 0
    except (OptikitError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
