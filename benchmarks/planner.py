"""How wrong the planner is, on measured rows of public data; anyone can run it.

``python -m benchmarks.planner --data DIR [--write docs/planner.md] [--json OUT] [--ship]``

Every number is of rows that the fit did not see: all rows of one card, or of one model, are held
out, and predicted from the others of the same engine. The constants of the model were
chosen on the rows of TensorRT-LLM and SGLang; docs/planner.md says what was not.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from benchmarks.planner_rows import Measured, read_rows
from benchmarks.tables import markdown, write_section
from optikit_assets.planner.fit import Fit, fit_rows
from optikit_assets.planner.roofline import TERMS
from optikit_assets.planner.rows import FIRST_TOKEN
from optikit_assets.planner.shipped import shipped_file
from optikit_assets.specs.plugins import BUILTIN_ENGINES

# Assumed, per card and hour: what decides between cards is their ratio.
PRICES = {
    "l40s": 1.0,
    "a100": 1.8,
    "h100": 3.0,
    "h200": 3.8,
    "b200": 5.5,
    "b300": 6.5,
    "gb200": 6.0,
}
TPOT_LIMITS_MS = (10, 15, 20, 30, 50)
# Nobody waits longer for a first token; some rows keep a TPOT by letting requests wait for minutes.
TTFT_LIMIT_S = 10.0
_LEAST_ROWS = 20
_TOPS = (1, 2, 3)
_DRAWS = 200


@dataclass(frozen=True)
class Predicted:
    """A row and what was predicted of it, without it and its like."""

    measured: Measured
    fit: Fit
    held_out: str

    def ratio(self, target: str) -> float:
        """Return measured / predicted; of throughput the inverse, as that of its time."""
        row, fit = self.measured.row, self.fit
        if target == "throughput per GPU":
            return row.latency_s / fit.latency_s(row.work)
        if target == "TTFT":
            return (row.ttft_s or np.nan) / fit.ttft_s(row.work)
        return (row.tpot_s or np.nan) / fit.tpot_s(row.work)

    def error(self, target: str) -> float:
        """Return how far the prediction is from what was measured, relative to the latter."""
        ratio = self.ratio(target)
        return abs(ratio - 1.0) if target == "throughput per GPU" else abs(1.0 / ratio - 1.0)

    @property
    def covered(self) -> bool:
        """Whether the measured time is within the interval."""
        return self.fit.low <= self.ratio("throughput per GPU") <= self.fit.high


TARGETS = ("throughput per GPU", "TPOT", "TTFT")


def held_out(
    rows: Sequence[Measured], by: Callable[[Measured], str], *, fitted: bool = True
) -> list[Predicted]:
    """Predict every row from the rows of the same engine that differ in `by`."""
    found: list[Predicted] = []
    for engine, name in sorted({(row.engine, by(row)) for row in rows}):
        others = [r.row for r in rows if r.engine == engine and by(r) != name]
        if len(others) < _LEAST_ROWS:
            continue
        fits = fit_rows(others) if fitted else fit_rows([])
        here = (r for r in rows if r.engine == engine and by(r) == name)
        found += [Predicted(row, fits[row.kind], name) for row in here]
    return found


def error_rows(split: str, predicted: Sequence[Predicted]) -> list[dict[str, object]]:
    """Return the errors of a split: per engine, kind and target, then per what was held out."""
    table: list[dict[str, object]] = []

    def key(p: Predicted) -> tuple[str, str]:
        return p.measured.engine, p.measured.kind

    for (engine, kind), group in itertools.groupby(sorted(predicted, key=key), key):
        every = list(group)
        names = sorted({p.held_out for p in every})
        for name in ["", *(names if len(names) > 1 else [])]:
            some = [p for p in every if name in ("", p.held_out)]
            for target in TARGETS if not name else TARGETS[:1]:
                errors = np.array([p.error(target) for p in some])
                table.append({
                    "split": split,
                    "engine": engine,
                    "kind": kind,
                    "held_out": name or "all",
                    "target": target,
                    "median": float(np.nanmedian(errors)),
                    "p90": float(np.nanquantile(errors, 0.9)),
                    "coverage": float(np.mean([p.covered for p in some])),
                    "interval": [some[0].fit.low, some[0].fit.high] if name else None,
                    "rows": len(some),
                })  # fmt: skip
    return table


def noise(rows: Sequence[Measured]) -> list[dict[str, object]]:
    """Return how far repeats of a configuration are from one another, by engine."""
    table: list[dict[str, object]] = []
    for engine in sorted({row.engine for row in rows}):
        repeats: dict[object, list[Measured]] = {}
        for row in rows:
            if row.engine == engine:
                repeats.setdefault(row.configuration, []).append(row)
        several = [group for group in repeats.values() if len(group) > 1]
        entry: dict[str, object] = {"engine": engine, "configurations": len(several)}
        for target, of in (
            ("throughput per GPU", lambda r: r.row.latency_s),
            ("TPOT", lambda r: r.row.tpot_s),
            ("TTFT", lambda r: r.row.ttft_s),
        ):
            away = [
                abs(of(row) / np.median([of(other) for other in group]) - 1.0)
                for group in several
                for row in group
            ]
            entry[target] = f"{np.median(away):.1%} / {np.quantile(away, 0.9):.1%}" if away else "–"
        table.append(entry)
    return table


@dataclass(frozen=True)
class Option:
    """One way to serve: its tokens per price in truth and by prediction; 0: not in time."""

    measured: float
    predicted: float


def decisions(predicted: Sequence[Predicted], *, one_card: bool) -> list[list[Option]]:
    """Return every decision that the rows allow: options of one workload under one TPOT limit.

    An option is a card, a parallelism and a precision; its value is the highest throughput per
    price over the numbers of clients that keep the limit.
    """

    def workload(p: Predicted) -> tuple[object, ...]:
        m = p.measured
        own = m.system if one_card else ""
        return m.model, m.work.input_tokens, m.work.output_tokens, own

    found: list[list[Option]] = []
    ordered = sorted(predicted, key=lambda p: str(workload(p)))
    for _, group in itertools.groupby(ordered, workload):
        every = list(group)
        for limit_ms in TPOT_LIMITS_MS:
            options: dict[object, list[Predicted]] = {}
            for p in every:
                m = p.measured
                options.setdefault((m.system, m.precision, m.work.layout), []).append(p)
            values = [_option(members, limit_ms / 1e3) for members in options.values()]
            if len(values) > max(_TOPS) and any(v.measured for v in values):
                found.append(values)
    return found


def _option(members: Iterable[Predicted], limit_s: float) -> Option:
    measured, forecast = [0.0], [0.0]
    for p in members:
        work, price = p.measured.work, PRICES[p.measured.system]
        row = p.measured.row
        if (row.tpot_s or np.inf) <= limit_s and (row.ttft_s or np.inf) <= TTFT_LIMIT_S:
            measured.append(p.measured.throughput / price)
        rate = work.clients * work.output_tokens / p.fit.latency_s(work) / work.layout.cards
        # A limit that is missed by little is not worth nothing: sorted behind what keeps it.
        late = max(p.fit.tpot_s(work) / limit_s, p.fit.ttft_s(work) / TTFT_LIMIT_S)
        forecast.append(rate / price if late <= 1.0 else 1e-6 * rate / price / late)
    return Option(max(measured), max(forecast))


def regret(choices: Sequence[Sequence[Option]], top: int) -> np.ndarray:
    """Return the share of the best option's value that the best of the top predictions loses."""
    lost: list[float] = []
    for options in choices:
        ranked = sorted(options, key=lambda option: -option.predicted)[:top]
        best = max(option.measured for option in options)
        lost.append(1.0 - max(option.measured for option in ranked) / best)
    return np.array(lost)


def random_regret(choices: Sequence[Sequence[Option]], top: int) -> np.ndarray:
    """Return the same for options drawn at random, on average over many draws."""
    rng = np.random.default_rng(0)
    lost: list[float] = []
    for options in choices:
        values = np.array([option.measured for option in options])
        drawn = [rng.choice(values, top, replace=False).max() for _ in range(_DRAWS)]
        lost.append(1.0 - float(np.mean(drawn)) / values.max())
    return np.array(lost)


def regret_rows(rows: Sequence[Measured]) -> list[dict[str, object]]:
    """Return the regret of decisions about models that the fit never saw."""

    def by_model(row: Measured) -> str:
        return row.model

    table: list[dict[str, object]] = []
    fitted = held_out(rows, by_model)
    plain = held_out(rows, by_model, fitted=False)
    for scope, one_card in (("any card", False), ("one card", True)):
        arms = {
            "fitted": (regret, decisions(fitted, one_card=one_card)),
            "unfitted roofline": (regret, decisions(plain, one_card=one_card)),
            "random": (random_regret, decisions(plain, one_card=one_card)),
        }
        for arm, (how, choices) in arms.items():
            for top in _TOPS:
                lost = how(choices, top)
                table.append({
                    "scope": scope,
                    "arm": arm,
                    "top": top,
                    "mean": float(np.mean(lost)),
                    "worst": float(np.max(lost)),
                    "decisions": len(choices),
                })  # fmt: skip
    return table


def worst_rows(predicted: Sequence[Predicted], count: int = 8) -> list[dict[str, str]]:
    """Return the rows of vLLM's dense models that are predicted worst."""
    dense = [p for p in predicted if p.measured.kind == "dense"]
    dense.sort(key=lambda p: -p.error("throughput per GPU"))
    return [
        {
            "model": p.measured.model,
            "card": p.measured.system,
            "precision": p.measured.precision,
            "layout": p.measured.work.layout.label,
            "clients": f"{p.measured.work.clients:.0f}",
            "input / output": f"{p.measured.work.input_tokens:.0f} / "
            f"{p.measured.work.output_tokens:.0f}",
            "predicted / measured throughput": f"{p.ratio('throughput per GPU'):.2f}",
        }
        for p in dense[:count]
    ]


def shipped(rows: Sequence[Measured]) -> dict[str, object]:
    """Return what `shipped_fits` reads: the fits of all rows of each engine there is here."""
    found: dict[str, object] = {}
    for engine in sorted({row.engine for row in rows} & set(BUILTIN_ENGINES)):
        own = [row for row in rows if row.engine == engine]
        found[engine] = {
            kind: {
                "rows": fit.rows,
                "low": round(fit.low, 3),
                "high": round(fit.high, 3),
                "terms": _named(TERMS, fit.coefficients),
                "first_token": _named(FIRST_TOKEN, fit.first_token),
            }
            for kind, fit in fit_rows([row.row for row in own]).items()
        }
    return found


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: round(value, 4) for name, value in zip(names, values.tolist(), strict=True)}


def _shown(errors: Iterable[dict[str, object]], *, details: bool) -> list[dict[str, str]]:
    return [
        {
            "held out": str(e["split"]) if not details else f"{e['split']} {e['held_out']}",
            "engine": str(e["engine"]),
            "models": str(e["kind"]),
            "target": str(e["target"]),
            "median error": f"{e['median']:.1%}",
            "90th percentile": f"{e['p90']:.1%}",
            "covered by 90 % intervals": f"{e['coverage']:.0%}"
            if e["target"] == TARGETS[0]
            else "–",
            "rows": str(e["rows"]),
        }
        for e in errors
        if (e["held_out"] != "all") == details
    ]


def main() -> None:
    """Run the validation and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--ship", action="store_true", help="write the fits that engines ship with")
    options = parser.parse_args()
    rows, left_out = read_rows(options.data)
    by_card = held_out(rows, lambda row: row.system)
    by_model = held_out(rows, lambda row: row.model)
    errors = error_rows("card", by_card) + error_rows("model", by_model)
    lost = regret_rows([row for row in rows if row.engine == "vllm"])
    tables = {
        "errors": markdown(_shown(errors, details=False)),
        "held-out": markdown([e for e in _shown(errors, details=True) if e["engine"] == "vllm"]),
        "noise": markdown([{k: str(v) for k, v in entry.items()} for entry in noise(rows)]),
        "regret": markdown([
            {
                "choice among": str(entry["scope"]),
                "by": str(entry["arm"]),
                "best of the top": str(entry["top"]),
                "value lost, mean": f"{entry['mean']:.1%}",
                "worst": f"{entry['worst']:.0%}",
                "decisions": str(entry["decisions"]),
            }
            for entry in lost
        ]),
        "worst": markdown(worst_rows([p for p in by_card if p.measured.engine == "vllm"])),
        "left-out": markdown([
            {"rows that are left out": why, "number": str(count)} for why, count in left_out.items()
        ]),
    }  # fmt: skip
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
        if options.write:
            write_section(options.write, name, table)
    if options.json:
        options.json.write_text(json.dumps({"errors": errors, "regret": lost}, indent=2) + "\n")
    if options.ship:
        head = "# Made by `python -m benchmarks.planner --data DIR --ship`.\n"
        for engine, fits in shipped(rows).items():
            text = head + yaml.safe_dump(fits, sort_keys=False)
            shipped_file(engine).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
