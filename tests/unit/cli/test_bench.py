"""`optikit bench` against imitation servers, in real time over loopback."""

import base64
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from optikit_assets.benchmarker import read_requests
from optikit_assets.cli.bench import LiveTable
from optikit_assets.specs import SloSpec, load_spec
from tests.servers.imitation import Behaviour, running
from tests.unit.cli.conftest import Ended, Optikit

pytestmark = pytest.mark.serial

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
    assert f"{result['certified_rate_rps']:.3g} requests/s measured" in ended.out
    # Certified is what a deployment is.
    assert "certified" not in ended.out
    assert "; measured " in result["reason"]
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


SECRET = "correct-horse"
ENCODED = base64.b64encode(f"ada:{SECRET}".encode()).decode()


def holding(folder: Path, text: str) -> list[Path]:
    """Return the files below `folder` that hold a text, also compressed."""
    found: list[Path] = []
    for file in (file for file in folder.rglob("*") if file.is_file()):
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        if text.encode() in content:
            found.append(file)
    return found


@pytest.mark.parametrize("fault", ["", "die"])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_user_and_password_of_the_url_are_sent_and_kept_nowhere(
    optikit: Optikit, home: Path, tmp_path: Path, fault: str, processes: str
):
    behaviour = Behaviour(**SERVER, credentials=f"ada:{SECRET}", fault=fault, after=20)
    with running(behaviour) as server:
        url = server.base_url.replace("://", f"://ada:{SECRET}@")
        out = tmp_path / "out" / "result.json"
        options = ("--json", out, "--client-processes", processes)
        ended = bench(optikit, url, slo_file(tmp_path, max_probes=1), *options)
        assert ("the server died" in ended.err) is bool(fault), ended.err
        assert len(server.bodies) > 10
    (row,) = ask(optikit, "SELECT base_url FROM benches")
    assert row["base_url"] == server.base_url
    assert SECRET not in ended.out + ended.err
    assert holding(tmp_path, server.base_url) != []
    assert holding(tmp_path, SECRET) == holding(tmp_path, ENCODED) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"http://127.0.0.1:9/v1?api_key={SECRET}", "--base-url may have nothing behind its path"),
        (f"http://ada:{SECRET}@127.0.0.1:9/v1", "http://127.0.0.1:9/v1/models cannot be reached"),
        (f"ada:{SECRET}@127.0.0.1:9/v1", "--base-url is not of the form http://HOST"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secret(
    optikit: Optikit, home: Path, tmp_path: Path, url: str, message: str
):
    error = bench(optikit, url, slo_file(tmp_path)).error
    assert error.startswith(message)
    assert SECRET not in error
    assert holding(home, SECRET) == []


# --- --json -------------------------------------------------------------------------------------


def in_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "result.json"


def a_folder(folder: Path) -> Path:
    (folder / "result.json").mkdir()
    return folder / "result.json"


def where_nothing_can_be_made(folder: Path) -> Path:
    return Path("/proc/nowhere/result.json")


@pytest.mark.parametrize("place", [in_a_file, a_folder, where_nothing_can_be_made])
def test_a_result_file_that_cannot_be_written_costs_no_load(
    optikit: Optikit, home: Path, tmp_path: Path, place: Callable[[Path], Path]
):
    out = place(tmp_path)
    with running(Behaviour(**SERVER)) as server:
        error = bench(optikit, server.base_url, slo_file(tmp_path), "--json", out).error
        assert server.bodies == []
    assert error.startswith(f"--json {out} cannot be written: ")
    assert not (home / "bench").exists()


def test_a_result_that_cannot_be_written_at_the_end_is_kept_and_found(
    optikit: Optikit, tmp_path: Path
):
    slo = slo_file(tmp_path, max_ms=1.0)
    with running(Behaviour(**SERVER)) as server:
        # A disk that is full, but only when something is written.
        ended = bench(optikit, server.base_url, slo, "--json", "/dev/full")
    folder = folder_of(ended)
    assert ended.error == (
        f"/dev/full cannot be written: No space left on device; the result is kept in "
        f"{folder}/result.json"
    )
    assert json.loads((folder / "result.json").read_text())["status"] == "infeasible"
    assert len(ask(optikit, "FROM benches")) == 1


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
