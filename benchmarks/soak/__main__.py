"""A day of mixed runs in compressed time, and whether anything grows that nobody asked for.

``python -m benchmarks.soak [--cycles N | --minutes M] [--json OUT] [--write docs/faults.md]``
starts Dagster once and plays cycles on it (`benchmarks.soak.day`): edits, killed drivers, runs that
are cancelled, dropped model versions, clicks with and without changes, commands beside them,
readers, promotions, `optikit gc`. Workers and the engine are the stand-ins of the faults. After
each cycle, once nothing goes on, it counts what there is (`benchmarks.soak.samples`).

The slopes are judged by `benchmarks.soak.verdicts`. The exit code is 1 if something grew that may
not, a run did not end, a process was left or a row was lost. Samples are kept as they are taken,
below ``OPTIKIT_HOME/soak``; ``--kept`` judges those.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.plays import until
from benchmarks.soak.day import PASSES_S, Day
from benchmarks.soak.premises import Premises, running
from benchmarks.soak.samples import lost_rows, sample, ticks
from benchmarks.soak.verdicts import ASKED_FOR, FLAT, GROWS, Trend, trends
from benchmarks.tables import markdown, write_section
from optikit_assets.headless.materialize import open_instance
from optikit_assets.settings import settings

_WARM_UP = 2
_PURGED_AFTER_DAYS = 31
_PURGE_LIMIT_S = 180.0


def play(root: Path, cycles: int | None, minutes: float | None) -> dict[str, Any]:
    """Play cycles until there are enough of them, and return what was seen."""
    samples: list[dict[str, float]] = []
    begun = time.monotonic()
    limit_s = float("inf") if minutes is None else 60.0 * minutes
    with running(root) as premises, open_instance() as instance:
        day = Day(premises, instance)
        longest_s = 0.0
        while len(samples) != cycles and time.monotonic() - begun + longest_s < limit_s:
            begins = time.monotonic()
            day.cycle(len(samples) + 1)
            longest_s = max(longest_s, time.monotonic() - begins)
            minute = (time.monotonic() - begun) / 60.0
            samples.append({"minute": minute, **sample(premises, instance)})
            (root / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
            print(f"cycle {len(samples)}: {longest_s:.0f} s", file=sys.stderr, flush=True)
        lost = lost_rows(premises, instance)
        purged = _purge(premises)
    seen = {"samples": samples, "lost rows": lost, "ticks before and after their age": purged}
    (root / "seen.json").write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")
    return seen


def _purge(premises: Premises) -> tuple[int, int]:
    """Let every tick become older than Dagster keeps them; return how many there were and are."""
    home = premises.home.folder
    before = ticks(home)
    premises.let_ticks_pass(_PURGED_AFTER_DAYS)
    until(lambda: ticks(home) < before // 2, _PURGE_LIMIT_S, "no tick was purged")
    return before, ticks(home)


def told(seen: dict[str, Any], found: Sequence[Trend]) -> str:
    """Return what was seen in sentences, and a table of all measures that changed at all."""
    samples = seen["samples"]
    before, after = seen["ticks before and after their age"]
    constant = [f"{it.measure} {_number(it.last)}" for it in found if not it.slope and it.last]
    rows = [
        {
            "measure": it.measure,
            "first": _number(it.first),
            "last": _number(it.last),
            "a cycle": f"{_number(it.slope)} ({_number(it.low)} to {_number(it.high)})",
            "verdict": it.verdict
            + (f": {_number(it.cost)} a {it.expectation.per}" if it.verdict == ASKED_FOR else ""),
            "why": it.expectation.why if it.verdict != FLAT else "",
        }
        for it in found
        if it.slope
    ]
    return (
        f"{len(samples)} cycles in {samples[-1]['minute']:.0f} minutes, which stand for "
        f"{len(samples) * PASSES_S / 3600:.0f} hours, with {samples[-1]['runs']:.0f} runs; the "
        f"first {_WARM_UP} are warm-up. Open runs and processes left after each: 0. Results "
        f"without their row, or with two: {len(seen['lost rows'])}. Ticks of sensors once they "
        f"were older than they are kept: {after} of {before}.\n\n{markdown(rows)}\n\n"
        f"Without any slope: {'; '.join(constant)}; all else 0."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print and keep the figures; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--cycles", type=int, help="play so many (default: 12, which are a day)")
    size.add_argument("--minutes", type=float, help="begin no cycle that would end later")
    size.add_argument("--kept", action="store_true", help="play nothing, judge what was seen")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the trends to a file")
    chosen = parser.parse_args(arguments)
    # Ended from outside, the contexts below still end what they started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = settings().home / "soak"
    if chosen.kept:
        seen = json.loads((root / "seen.json").read_text(encoding="utf-8"))
    elif root.exists():
        parser.error(f"{root} is of an earlier soak: remove it, so that nothing is there yet")
    else:
        cycles = None if chosen.minutes else chosen.cycles or 12
        seen = play(root, cycles, chosen.minutes)
    found = trends(seen["samples"][_WARM_UP:])
    text = told(seen, found)
    print(text)
    if chosen.json is not None:
        chosen.json.write_text(
            json.dumps({**seen, "trends": [asdict(it) for it in found]}, indent=1) + "\n",
            encoding="utf-8",
        )
    if chosen.write is not None:
        write_section(chosen.write, "soak", text)
    return int(bool(seen["lost rows"]) or any(it.verdict == GROWS for it in found))


if __name__ == "__main__":
    sys.exit(main())
