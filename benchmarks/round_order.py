"""In which order to serve the arms of a round: how often equal arms come out different.

``python -m benchmarks.round_order [--runs 4000] [--write FILE]``

A reading is the mean of the machine's log speed while its server is under load, its worst part
counted double, with normal noise; the race and its interval are those of certification. Four arms
that are equal; a gain that is proven is an error, which may happen to one race in forty.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.tables import markdown, write_section
from optikit_assets.deployment.gain import LogLimit, paired_ratio

_ARMS = 4
_FEWEST_ROUNDS, _ROUNDS = 4, 6
_TOLERANCE = 0.1
_STEP_S = 5.0
# A start of the server, and then its load.
_START_STEPS, _LOAD_STEPS = 3, 7
_SERVER_STEPS = _START_STEPS + _LOAD_STEPS
_NOISE = 0.06
_SLOWED = float(np.log(0.7))
_CONFIDENCE = 1.0 - 0.05 / (_ARMS - 1)

Order = Callable[[int, np.random.Generator], list[int]]
ORDERS: dict[str, Order] = {
    "the same": lambda _number, _rng: list(range(_ARMS)),
    "turned round": lambda number, _rng: list(range(_ARMS))[:: 1 if number % 2 else -1],
    "random": lambda _number, rng: rng.permutation(_ARMS).tolist(),
}
# Mean seconds slowed and undisturbed, and the drift of the log speed in an hour.
MACHINES = {
    "quiet": (0.0, 0.0, 0.0),
    "slowed for 30 s in 90": (30.0, 60.0, 0.0),
    "slowed for 60 s in 180": (60.0, 120.0, 0.0),
    "slowed for 5 min in 15": (300.0, 600.0, 0.0),
    "drift of 20 % an hour": (0.0, 0.0, 0.2),
    "drift of 60 % an hour": (0.0, 0.0, 0.6),
}


def log_speeds(machine: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Return the log speed of every step of a race."""
    slow_s, undisturbed_s, drift = machine
    steps = (_ROUNDS * _ARMS + 1) * _SERVER_STEPS
    found = drift * np.arange(steps) * _STEP_S / 3600
    if not slow_s:
        return found
    at = -rng.exponential(undisturbed_s) / _STEP_S
    while at < steps:
        at += rng.exponential(undisturbed_s) / _STEP_S
        length = rng.exponential(slow_s) / _STEP_S
        found[max(0, int(at)) : max(0, int(at + length))] += _SLOWED
        at += length
    return found


def race(order: Order, machine: tuple[float, float, float], rng: np.random.Generator) -> bool:
    """Return whether some arm comes out better than the first, though all are equal."""
    speeds = log_speeds(machine, rng)
    limits: list[list[LogLimit]] = [[] for _ in range(_ARMS)]
    ratios = []
    at = 0
    for number in range(_ROUNDS):
        for arm in order(number, rng):
            load = speeds[at + _START_STEPS : at + _SERVER_STEPS]
            seen = (load.mean() + load.min()) / 2 + rng.normal(0, _NOISE)
            limits[arm].append(LogLimit(float(seen), _NOISE))
            at += _SERVER_STEPS
        ratios = [
            paired_ratio(list(zip(other, limits[0], strict=True)), confidence=_CONFIDENCE)
            for other in limits[1:]
        ]
        known = [r for r in ratios if r and r.half_width <= np.log1p(_TOLERANCE)]
        if number + 1 >= _FEWEST_ROUNDS and len(known) == len(ratios):
            break
    return any(ratio is not None and ratio.low > 1.0 for ratio in ratios)


def main() -> None:
    """Run all orders on all machines and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, str]] = []
    for name, machine in MACHINES.items():
        found = {"machine": name}
        for order_name, order in ORDERS.items():
            rng = np.random.default_rng(1)
            wrong = [race(order, machine, rng) for _ in range(options.runs)]
            found[order_name] = f"{np.mean(wrong):.1%}"
        rows.append(found)
        print(found, flush=True)
    if options.write:
        write_section(options.write, "round-order", markdown(rows))


if __name__ == "__main__":
    main()
