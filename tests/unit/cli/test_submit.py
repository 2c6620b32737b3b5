"""A job handed to a running Dagster; what it answers is as a webserver of 1.13 answered."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from optikit_assets.cli import submit
from optikit_assets.cli.submit import RunningDagster, run_submit
from optikit_assets.errors import OptikitError
from optikit_assets.specs import JobSpec

URL = "http://127.0.0.1:3000"
JOB = JobSpec(name="night", model="m@1", slos=("chat",), pools=("local",))
LAUNCHED = {"launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": "r1"}}}


def logs(status: str, *events: dict[str, Any], cursor: str = "1", more: bool = False) -> Any:
    told = {"__typename": "EventConnection", "cursor": cursor, "hasMore": more, "events": events}
    return {"logsForRun": told, "runOrError": {"__typename": "Run", "status": status}}


def said(message: str) -> dict[str, Any]:
    return {"__typename": "LogMessageEvent", "message": message, "level": "INFO"}


@pytest.fixture
def dagster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Have answers given one after the other; return what was asked."""

    def answering(*answers: Any) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []
        waiting = list(answers)

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(json.loads(request.content)["variables"])
            content = waiting.pop(0)
            if isinstance(content, Exception):
                raise content
            return httpx.Response(200, json={"data": content})

        client = httpx.Client(transport=httpx.MockTransport(answer))
        monkeypatch.setattr(submit, "RunningDagster", lambda url: RunningDagster(url, client))
        monkeypatch.setattr(submit, "_POLL_S", 0.0)
        return asked

    return answering


def test_a_job_is_queued_with_what_it_names_and_nothing_else(dagster, capsys) -> None:
    asked = dagster(LAUNCHED)
    assert run_submit(JOB, URL, watch=False) == 0
    assert "http://127.0.0.1:3000/runs/r1" in capsys.readouterr().out
    job = asked[0]["job"]
    assert job["selector"]["jobName"] == "optimize_model"
    config = job["runConfigData"]["ops"]["optimize"]["config"]
    assert config == {
        "model": "m@1",
        "flow": "quantize_and_tune",
        "slos": ["chat"],
        "pools": ["local"],
    }


def test_it_is_followed_to_its_end_without_a_line_lost_or_told_twice(dagster, capsys) -> None:
    asked = dagster(
        LAUNCHED,
        logs("QUEUED"),
        logs("STARTED", said("started a"), cursor="5", more=True),
        httpx.ConnectError("restarted"),
        logs("SUCCESS", said("finished a"), cursor="6", more=True),
        logs("SUCCESS", said("finished b"), cursor="7"),
    )
    assert run_submit(JOB, URL, watch=True) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "started a",
        "finished a",
        "finished b",
        "the run ended: SUCCESS",
    ]
    assert [ask["after"] for ask in asked[1:]] == [None, "1", "5", "5", "6"]


def test_one_that_fails_says_why_and_ends_with_1(dagster, capsys) -> None:
    error = {"message": "DagsterExecutionStepExecutionError", "causes": [{"message": "no\n  disk"}]}
    failure = {"__typename": "ExecutionStepFailureEvent", "error": error}
    dagster(LAUNCHED, logs("FAILURE", failure))
    assert run_submit(JOB, URL, watch=True) == 1
    assert "no disk\nthe run ended: FAILURE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.ConnectError("refused"), r"no Dagster answers at http://127\.0\.0\.1:3000 .*--url"),
        (
            {"launchRun": {"__typename": "PipelineNotFoundError", "message": "no job here"}},
            "refused the job: no job here",
        ),
        (
            {
                "launchRun": {
                    "__typename": "RunConfigValidationInvalid",
                    "errors": [{"message": "bad flow"}, {"message": "bad pool"}],
                }
            },
            "refused the job: bad flow; bad pool",
        ),
        ({"launchRun": {"__typename": "RunConflict"}}, "refused the job: RunConflict"),
    ],
)
def test_who_does_not_take_it_is_named(dagster, answer, expected) -> None:
    dagster(answer)
    with pytest.raises(OptikitError, match=expected):
        run_submit(JOB, URL, watch=False)


def test_one_that_nobody_tells_of_any_more_is_not_waited_for_for_ever(
    dagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_LOST_LIMIT_S", -1.0)
    dagster(LAUNCHED, httpx.ReadTimeout("silent"))
    with pytest.raises(OptikitError, match="no Dagster answers"):
        run_submit(JOB, URL, watch=True)


@pytest.mark.parametrize("silence", [httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut")])
def test_one_that_was_queued_without_an_answer_is_found_and_not_queued_twice(
    dagster, capsys, silence
) -> None:
    asked = dagster(silence, {"runsOrError": {"results": [{"runId": "r7"}]}})
    assert run_submit(JOB, URL, watch=False) == 0
    assert "http://127.0.0.1:3000/runs/r7" in capsys.readouterr().out
    (tag,) = asked[1]["wanted"]["tags"]
    assert tag in asked[0]["job"]["executionMetadata"]["tags"]


def test_one_that_nobody_knows_to_be_queued_is_said_to_be_looked_for(dagster) -> None:
    asked = dagster(httpx.ReadTimeout("slow"), {"runsOrError": {"results": []}})
    with pytest.raises(OptikitError, match=r"look whether it was queued, .* optikit/submission="):
        run_submit(JOB, URL, watch=False)
    assert len(asked) == 2


def test_one_that_was_deleted_is_followed_no_longer(dagster) -> None:
    gone = {"__typename": "RunNotFoundError"}
    dagster(LAUNCHED, logs("STARTED"), {"logsForRun": gone, "runOrError": gone})
    with pytest.raises(OptikitError, match="knows no run r1 any more"):
        run_submit(JOB, URL, watch=True)


def test_a_moment_in_which_its_state_cannot_be_read_is_waited_through(dagster) -> None:
    locked = {"__typename": "PythonError", "message": "database is locked"}
    dagster(LAUNCHED, {"logsForRun": locked, "runOrError": locked}, logs("SUCCESS"))
    assert run_submit(JOB, URL, watch=True) == 0


def test_a_run_that_could_not_start_says_why(dagster, capsys) -> None:
    failure = {"__typename": "RunFailureEvent", "message": "no code server"}
    dagster(LAUNCHED, logs("FAILURE", failure))
    assert run_submit(JOB, URL, watch=True) == 1
    assert "no code server\nthe run ended: FAILURE" in capsys.readouterr().out
