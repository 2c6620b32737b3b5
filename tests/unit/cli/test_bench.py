"""`optikit bench` against imitation servers, in real time over loopback."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from optikit_assets.benchmarker import read_requests
from optikit_assets.cli.bench import LiveTable
from optikit_assets.specs import SloSpec, load_spec
from tests.servers.imitation import Behaviour, running
from tests.unit.cli.conftest import Ended, Optikit

SERVER = {"slots": 8, "prefill_s": 0.03, "token_s": 0.01}
SLO = """\
name: short
workload: {input_tokens: 16, output_tokens: 4}
objectives: [{metric: e2e_latency, percentile: 80, max_ms: MAX_MS}]
budget:
  min_probe_seconds: 1
  max_probe_seconds: 5
  min_probe_requests: 10
  warmup_requests: 2
  closed_loop_requests: 3
  max_probes: MAX_PROBES
  max_load_seconds: 16
  tolerance: 0.5
  strategy: paper
"""


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def slo_file(folder: Path, max_ms: float = 2000.0, max_probes: int = 2) -> Path:
    file = folder / "short.yaml"
    text = SLO.replace("MAX_MS", f"{max_ms:g}").replace("MAX_PROBES", str(max_probes))
    file.write_text(text, encoding="utf-8")
    return file


def bench(optikit: Optikit, url: str, slo: Path, *more: str | Path) -> Ended:
    return optikit("bench", "--base-url", url, "--model", "imitation", "--slo", slo, *more)


def ask(optikit: Optikit, sql: str) -> list[dict[str, Any]]:
    return json.loads(optikit("sql", sql, "--format", "json").out)


def folder_of(ended: Ended) -> Path:
    (line,) = [line for line in ended.out.splitlines() if line.startswith("record: ")]
    return Path(line.removeprefix("record: "))


def test_a_bench_shows_every_probe_and_keeps_a_record_of_everything(
    optikit: Optikit, home: Path, tmp_path: Path
):
    out = tmp_path / "result.json"
    with running(Behaviour(**SERVER)) as server:
        ended = bench(optikit, server.base_url, slo_file(tmp_path), "--json", out)
    assert ended.code == 0, ended.out + ended.err
    result = json.loads(out.read_text())
    assert result["status"] == "feasible"
    assert f"{result['certified_rate_rps']:.3g} requests/s certified" in ended.out
    kinds = [line.split()[0] for line in ended.out.splitlines()]
    assert kinds[: len(result["probes"])] == [probe["kind"] for probe in result["probes"]]
    # Beside the terminal: the folder,
    folder = folder_of(ended)
    assert folder.parent == home / "bench"
    assert json.loads((folder / "result.json").read_text()) == result
    requests = list(read_requests(folder / "requests.jsonl.gz"))
    assert len(requests) == sum(probe["sent"] for probe in result["probes"])
    for name in ("latency_against_rate", "steady_state"):
        assert "<svg" in (folder / f"{name}.svg").read_text()
    # and the history.
    (row,) = ask(optikit, "SELECT * FROM benches")
    assert (row["model"], row["slo"], row["run_id"]) == ("imitation", "short", folder.name)
    assert (row["base_url"], row["folder"]) == (server.base_url, str(folder))
    assert (row["status"], row["probes"]) == ("feasible", len(result["probes"]))
    assert row["certified_rate_rps"] == pytest.approx(result["certified_rate_rps"])
    probes = ask(
        optikit,
        "SELECT p.stage, p.kind, p.verdict, p.reason, p.met FROM probes p "
        "JOIN benches USING (content_key) ORDER BY probe",
    )
    assert {probe["stage"] for probe in probes} == {"bench"}
    for key in ("kind", "verdict", "reason", "met"):
        assert [probe[key] for probe in probes] == [probe[key] for probe in result["probes"]]
    (counted,) = ask(
        optikit, "SELECT count(*) AS n, sum(len(itl_s)) AS gaps FROM requests WHERE stage = 'bench'"
    )
    assert counted["n"] == len(requests)
    assert counted["gaps"] == sum(len(request.itl_s) for request in requests)


def test_a_bench_whose_server_dies_keeps_what_was_measured(optikit: Optikit, tmp_path: Path):
    out = tmp_path / "result.json"
    with running(Behaviour(**SERVER, fault="die", after=20)) as server:
        ended = bench(optikit, server.base_url, slo_file(tmp_path), "--json", out)
    assert "the server died during the probe" in ended.error
    result = json.loads(out.read_text())
    assert (result["status"], result["certified_rate_rps"]) == ("failed", 0.0)
    assert result["reason"] == ended.error
    assert [probe["kind"] for probe in result["probes"]] == ["closed", "open"]
    folder = folder_of(ended)
    assert {file.name for file in folder.iterdir()} == {
        "result.json",
        "requests.jsonl.gz",
        "latency_against_rate.svg",
        "steady_state.svg",
    }
    (row,) = ask(optikit, "SELECT status, reason, probes FROM benches")
    assert row == {"status": "failed", "reason": ended.error, "probes": 2}
    (counted,) = ask(optikit, "SELECT count(*) AS n FROM probes JOIN benches USING (content_key)")
    assert counted["n"] == 2


def test_a_bench_that_measured_nothing_leaves_nothing(optikit: Optikit, home: Path, tmp_path: Path):
    with running(Behaviour(**SERVER, fault="malformed")) as server:
        assert (
            "a single request failed" in bench(optikit, server.base_url, slo_file(tmp_path)).error
        )
    assert list((home / "bench").iterdir()) == []
    assert not (home / "history").exists()


def test_the_key_of_the_endpoint_comes_from_the_environment(
    optikit: Optikit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    slo = slo_file(tmp_path, max_ms=1.0)
    with running(Behaviour(**SERVER, api_key="secret")) as server:
        error = bench(optikit, server.base_url, slo).error
        assert "HTTP 401" in error
        assert "OPENAI_API_KEY" in error
        assert "OPENAI_API_KEY" in optikit("bench", "--help").out
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        ended = bench(optikit, server.base_url, slo)
    assert ended.code == 1
    assert "infeasible" in ended.out
    assert "secret" not in "".join(f.read_text() for f in folder_of(ended).glob("*.json"))


def test_progress_reported_while_the_table_is_drawn_is_drawn_the_next_time(tmp_path: Path):
    table = LiveTable(load_spec(slo_file(tmp_path), SloSpec))

    class Reporter:
        """A value at the drawing of which another thread reports."""

        def __str__(self) -> str:
            table.follow({"sent": 3, "finished": 2, "errors": 1})
            return "drawn"

    table.follow({"probe": Reporter(), "elapsed_s": 1.5})
    assert _drawn(table) == "probe drawn  elapsed_s 1.5"
    assert _drawn(table) == "sent 3  finished 2  errors 1"


def _drawn(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()[-1].strip()
