"""The reports as a browser gets them: of deployments alone, from this machine alone."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.cli.reports import serving
from optikit_assets.errors import OptikitError
from optikit_assets.history import History
from optikit_assets.settings import settings

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def store(home: Path) -> ArtifactStore:
    found = open_store(settings().store, home)
    for key, kind in ((KEY, "deployable_config"), (OTHER, "checkpoint")):
        with found.create(key, kind) as draft:
            draft.write_json("deployment.json", {"model": "m"})
            draft.write_json("secret.json", "no report")
            (draft.path / "report.html").write_text("<h1>req/s ≥ 7</h1>", encoding="utf-8")
    return found


@pytest.fixture
def client(store: ArtifactStore) -> Iterator[httpx.Client]:
    with serving(settings(), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as found:
                yield found
        finally:
            server.shutdown()
            thread.join(5)


def test_the_report_and_the_record_of_a_deployment_are_served(client: httpx.Client) -> None:
    report = client.get(f"/{KEY}/report.html")
    assert (report.status_code, report.text) == (200, "<h1>req/s ≥ 7</h1>")
    assert report.headers["content-type"] == "text/html; charset=utf-8"
    assert client.get(f"/{KEY}/deployment.json").json() == {"model": "m"}


@pytest.mark.parametrize(
    "path",
    [
        f"/{OTHER}/report.html",
        f"/{'c' * 64}/report.html",
        f"/{KEY}/secret.json",
        f"/{KEY}/../{KEY}/secret.json",
        f"/{KEY}/%2e%2e/{OTHER}/report.html",
        "//etc/passwd",
        f"/{KEY}/report.html/",
    ],
)
def test_nothing_else_of_the_store_or_the_disk_is(client: httpx.Client, path: str) -> None:
    request = client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    assert client.send(request).status_code == 404


def test_a_page_elsewhere_cannot_read_them_by_a_name_of_its_own(client: httpx.Client) -> None:
    place = f"/{KEY}/report.html"
    assert client.get(place, headers={"Host": "evil.example:3070"}).status_code == 403
    assert client.get(place, headers={"Host": "localhost:3070"}).status_code == 200


@pytest.mark.slow
def test_the_first_page_lists_deployments_and_shows_names_as_they_are(
    client: httpx.Client,
) -> None:
    assert "nothing was deployed yet" in client.get("/").text
    history = History(settings().history)
    row = {
        "model": "<b>m</b>@1",
        "slo": "chat",
        "content_key": KEY,
        "artifact_key": KEY,
        "status": "feasible",
        "chosen_recipe": "int_w8a8",
        "certified_rate_rps": 7.25,
        "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "ended_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    history.append("deployments", [row])
    history.drain(timeout_s=10)
    page = client.get("/").text
    assert f'<a href="/{KEY}/report.html">' in page
    assert "&lt;b&gt;m&lt;/b&gt;@1" in page
    assert "<b>m" not in page
    assert "<td>7.25<td>–<td>2026-01-02" in page


def test_a_port_that_is_taken_is_named_with_what_to_do(client: httpx.Client) -> None:
    taken = client.base_url.port
    with (
        pytest.raises(OptikitError, match=rf"port {taken} of 127\.0\.0\.1 .*OPTIKIT_REPORTS_PORT"),
        serving(settings(), taken),
    ):
        pass
