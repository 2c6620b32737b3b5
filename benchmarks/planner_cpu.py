"""The planner against real vLLM on this machine's processor: two models, seven settings each.

``python -m benchmarks.planner_cpu --json FILE [--serve PYTHON] [--models NAME …] [--minutes N]
[--keep DIR] [--replicas --router HAPROXY] [--write docs/planner.md]``

With ``--serve``, an interpreter that has vLLM, what FILE does not have yet is measured (it needs
the machine to itself): each setting on a fresh server, the first one of every model twice. Without,
FILE is read. A setting is then predicted from what was measured of the *other* settings, of both
models, by the code that `optikit plan` uses. ``--replicas`` measures two servers behind a router
instead (`benchmarks.planner_replicas`).
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import planner_replicas
from benchmarks.planner_cpu_fit import CATALOG, architecture, fit_of
from benchmarks.planner_cpu_runs import (
    CARD,
    MODELS,
    SETTINGS,
    SPEC,
    Serving,
    Setting,
    measured,
    off,
    shown,
    slo_of,
)
from benchmarks.tables import markdown, write_section
from optikit_assets.engines import detect
from optikit_assets.errors import OptikitError
from optikit_assets.planner import Fit, Place, Question, Way, forecast
from optikit_assets.specs import BASELINE

_SEED = 1


@dataclass(frozen=True)
class Compared:
    """A setting as it was measured, and as it is predicted from the others."""

    model: str
    setting: Setting
    run: Mapping[str, Any]
    way: Way

    @property
    def error(self) -> float:
        """How far the prediction is from the measured rate; nan: there was none."""
        return off(self.way.rate_rps, self.run["certified_rps"])

    @property
    def from_limit(self) -> float:
        """The same of the rate at which the search expects the SLO to be missed."""
        return off(self.way.rate_rps, self.run["estimate_rps"])

    @property
    def within(self) -> bool:
        """Whether the measured rate is within the interval."""
        return self.way.low_rps <= self.run["certified_rps"] <= self.way.high_rps


def predicted(model: str, setting: Setting, fit: Fit) -> Way:
    """Return what is predicted of a setting."""
    spec = SPEC.model_copy(update={"flags": {**SPEC.flags, **setting.flags}})
    question = Question(architecture(model), slo_of(model, setting.prefixed), spec, {"": fit})
    (way,) = forecast(
        question,
        [Place(CARD.name, CARD, 1)],
        [CATALOG.recipe(BASELINE)],
        CATALOG.search_space("demo"),
    )
    return way


def compare(runs: Sequence[Mapping[str, Any]]) -> list[Compared]:
    """Predict every setting from the runs of the others, of whichever model."""
    found: list[Compared] = []
    for model in MODELS:
        for setting in SETTINGS:
            own = [r for r in runs if (r["model"], r["setting"]) == (model, setting.name)]
            others = [run for run in runs if run["setting"] != setting.name]
            if own and others:
                way = predicted(model, setting, fit_of(others, model))
                found.append(Compared(model, setting, own[0], way))
    return found


def rows(found: Sequence[Compared]) -> list[dict[str, str]]:
    """Return the table."""
    return [
        {
            "model": one.model,
            "setting": one.setting.name,
            "predicted": f"{one.way.rate_rps:.1f} ({one.way.low_rps:.1f}–{one.way.high_rps:.1f})",
            **shown(one.way.rate_rps, one.run),
            "within": "yes" if one.within else "no" if one.run["certified_rps"] else "–",
        }
        for one in found
    ]


def summary(found: Sequence[Compared], runs: Sequence[Mapping[str, Any]]) -> str:
    """Return medians, rankings and the noise of a repetition, in words."""
    lines: list[str] = []
    certified = [one for one in found if one.run["certified_rps"]]
    for name in (*MODELS, None):
        some = [one for one in certified if name in (None, one.model)]
        if len(some) < 3:
            continue
        errors = np.abs([one.error for one in some])
        limits = np.abs([one.from_limit for one in some])
        order = stats.spearmanr(
            [one.way.rate_rps for one in some], [one.run["certified_rps"] for one in some]
        ).statistic
        lines.append(
            f"{name or 'Both models'}: {np.sum(errors <= 0.2)} of {len(some)} within 20 % of the "
            f"measured rate (median {np.median(errors):.0%}, largest {errors.max():.0%}), "
            f"{np.sum(limits <= 0.2)} within 20 % of the expected limit, Spearman {order:.2f}, "
            f"{sum(one.within for one in some)} within the interval."
        )
    for model in MODELS:
        first = SETTINGS[0].name
        again = [r for r in runs if (r["model"], r["setting"]) == (model, first)]
        if len(again) > 1:
            rates = " and ".join(f"{run['certified_rps']:.1f}" for run in again)
            limits = " and ".join(f"{run['estimate_rps'] or math.nan:.1f}" for run in again)
            lines.append(
                f"{model}, {first}, on two fresh servers: {rates} measured, limits expected at "
                f"{limits}."
            )
    return "\n".join(lines)


def measure(options: argparse.Namespace, known: dict[str, Any]) -> None:
    """Measure what is not known yet, as long as time is left."""
    ends_s = time.monotonic() + 60.0 * options.minutes
    # The repetition comes before the last setting, which has to wait where time is short.
    order = [*((setting, 0) for setting in SETTINGS[:-1]), (SETTINGS[0], 1), (SETTINGS[-1], 0)]
    wanted = [(model, *what) for what in order for model in options.models]
    with _folder(options.keep) as folder:
        serving = Serving(options.serve, folder)
        for number, (model, setting, repeat) in enumerate(wanted):
            key = {"model": model, "setting": setting.name, "repeat": repeat}
            if any(key.items() <= run.items() for run in known["runs"]):
                continue
            if time.monotonic() > ends_s:
                return
            print(time.strftime("%T"), *key.values(), flush=True)
            slo = slo_of(model, setting.prefixed)
            try:
                with serving.server(model, slo, setting.flags) as server:
                    found = measured(
                        server.base_url, model, slo, _SEED + number, serving.requests_file()
                    )
            except OptikitError as error:
                print(f"  {error}", flush=True)
                continue
            known["runs"].append({
                **key,
                "slo": slo.name,
                "input_tokens": slo.workload.mean_input_tokens,
                "output_tokens": slo.workload.mean_output_tokens,
                "flags": setting.flags,
                "versions": serving.version,
                "hardware": detect().label,
                "start_s": round(server.start_s, 1),
                **found,
            })  # fmt: skip
            _keep(options.json, known)
            print(f"  {found['status']} {found['certified_rps']:.2f}/s", flush=True)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="optikit-cpu-") as made:
        yield Path(made)


def _keep(file: Path, known: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, predict, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--serve", type=Path, help="Python with vLLM; without it FILE is read.")
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--minutes", type=float, default=60.0, help="No run is begun later.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="For logs and timelines.")
    parser.add_argument("--replicas", action="store_true")
    parser.add_argument("--router", help="haproxy")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    known: dict[str, Any] = {"runs": [], "replicas": []}
    if options.json.exists():
        known = json.loads(options.json.read_text(encoding="utf-8"))
    if options.replicas:
        if options.serve:
            with _folder(options.keep) as folder:
                known["replicas"] = []
                for run in planner_replicas.measure(Serving(options.serve, folder), options.router):
                    known["replicas"].append(run)
                    _keep(options.json, known)
        section, text = "replicas", planner_replicas.report(known)
    else:
        if options.serve:
            measure(options, known)
        found = compare(known["runs"])
        section, text = "cpu", f"{markdown(rows(found))}\n\n{summary(found, known['runs'])}"
    print(text)
    if options.write:
        write_section(options.write, section, text)


if __name__ == "__main__":
    main()
