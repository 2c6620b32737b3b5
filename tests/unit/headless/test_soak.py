"""The soak's counts of known folders, and its verdicts on series that grow as it is known."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak.samples import files_by_folder
from benchmarks.soak.verdicts import (
    ASKED_FOR,
    EXPECTATIONS,
    FLAT,
    GROWS,
    TOLERATED,
    expectation_of,
    trend,
    trends,
)

RNG = np.random.default_rng(1)
CYCLES = np.arange(12.0)


def test_noise_without_growth_is_flat_and_one_outlier_does_not_matter() -> None:
    values = 200.0 + RNG.normal(0.0, 1.0, 12)
    values[6] += 500.0
    found = trend("daemon: RSS (MiB)", list(values))
    assert found.verdict == FLAT
    assert found.low <= 0.0 <= found.high


def test_a_leak_beneath_noise_is_found_with_its_size() -> None:
    values = 200.0 + 3.0 * CYCLES + RNG.normal(0.0, 2.0, 12)
    found = trend("daemon: RSS (MiB)", list(values))
    assert found.verdict == GROWS
    assert found.low <= 3.0 <= found.high


def test_growth_within_the_tolerance_is_told_and_does_not_count() -> None:
    assert trend("daemon: RSS (MiB)", list(200.0 + 0.5 * CYCLES)).verdict == TOLERATED


def test_a_single_entry_that_stays_after_every_cycle_grows() -> None:
    assert trend("temporary entries", list(CYCLES)).verdict == GROWS
    assert trend("others: processes", [0.0] * 11 + [1.0]).verdict == FLAT


def test_a_record_may_grow_in_proportion_at_a_cost_for_each_run_and_not_faster() -> None:
    runs = list(10.0 * CYCLES)
    record = trend("dagster/history/: bytes", list(5000.0 + 300.0 * 10.0 * CYCLES), runs)
    assert (record.verdict, record.cost) == (ASKED_FOR, pytest.approx(300.0))
    assert trend("dagster/history/: bytes", list(1000.0 * CYCLES**3), runs).verdict == GROWS


def test_every_measure_has_one_expectation_and_what_is_not_named_may_not_grow() -> None:
    assert expectation_of("logs/workers/: bytes").per == ""
    assert expectation_of("logs/: bytes").per == "run"
    assert expectation_of("no such measure") is EXPECTATIONS[-1]
    assert (EXPECTATIONS[-1].per, EXPECTATIONS[-1].tolerance) == ("", 0.0)


def test_the_worst_comes_first() -> None:
    samples = [
        {"minute": 2.0 * n, "runs": 8.0 * n, "open runs": 0.0, "temporary entries": float(n)}
        for n in range(8)
    ]
    found = [(it.measure, it.verdict) for it in trends(samples)]
    assert found == [("temporary entries", GROWS), ("runs", ASKED_FOR), ("open runs", FLAT)]


def test_one_sample_has_no_slope() -> None:
    with pytest.raises(ValueError, match="play more cycles"):
        trend("open runs", [0.0])


def test_files_and_links_count_where_they_lie_and_linked_bytes_once(tmp_path: Path) -> None:
    kept = tmp_path / "artifacts" / "ab" / "weights"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(100))
    for folder in ("logs/workers", "channels/production", "other"):
        (tmp_path / folder).mkdir(parents=True)
    os.link(kept, tmp_path / "artifacts" / "weights")
    (tmp_path / "logs" / "workers.jsonl").write_bytes(bytes(5))
    (tmp_path / "logs" / "workers" / "a.log").write_bytes(bytes(7))
    (tmp_path / "channels" / "production" / "chat").symlink_to(kept.parent)
    (tmp_path / "other" / "stray").write_bytes(bytes(3))
    found = dict(files_by_folder(tmp_path))
    assert (found["artifacts/: files"], found["artifacts/: bytes"]) == (2, 100)
    assert (found["logs/: bytes"], found["logs/workers/: bytes"]) == (5, 7)
    assert (found["channels/: files"], found["elsewhere/: bytes"]) == (1, 3)
