"""`optikit submit`: a job for a running Dagster, through its GraphQL, and what becomes of it."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
from rich.console import Console

from optikit_assets.defs.sensors import OPTIMIZE_JOB
from optikit_assets.errors import OptikitError, one_line
from optikit_assets.specs import JobSpec

_LOCATION, _REPOSITORY = "optikit", "__repository__"
_ASK_LIMIT_S = 30.0
_POLL_S = 1.0
_LOST_LIMIT_S = 300.0
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")

SUBMISSION_TAG = "optikit/submission"
"""Of a run: what a submission finds it by if nobody told it that the run was queued."""

_LAUNCH = """
mutation($job: ExecutionParams!) { launchRun(executionParams: $job) {
  __typename
  ... on LaunchRunSuccess { run { runId } }
  ... on RunConfigValidationInvalid { errors { message } }
  ... on PipelineNotFoundError { message }
  ... on UnauthorizedError { message }
  ... on PythonError { message }
} }
"""
_FIND = """
query($wanted: RunsFilter!) { runsOrError(filter: $wanted, limit: 1) {
  ... on Runs { results { runId } }
} }
"""
_LOGS = """
query($run: ID!, $after: String) { logsForRun(runId: $run, afterCursor: $after) {
  __typename
  ... on EventConnection { cursor hasMore events {
    __typename
    ... on LogMessageEvent { message level }
    ... on RunFailureEvent { message }
    ... on ExecutionStepFailureEvent { error { message causes: causes { message } } }
  } }
} runOrError(runId: $run) { __typename ... on Run { status } ... on PythonError { message } } }
"""


# What was asked arrived, or may have.
_UNANSWERED = (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError)


class _UnansweredError(OptikitError):
    """Somebody may have heard what was asked, and did not answer."""


class _RunGoneError(OptikitError):
    """There is no such run any more."""


class RunningDagster:
    """Dagster's webserver at an address, asked for what `optikit submit` needs."""

    def __init__(self, url: str, client: httpx.Client | None = None) -> None:
        self.url = url.rstrip("/")
        self._client = client or httpx.Client(timeout=_ASK_LIMIT_S)

    def launch(self, job: JobSpec) -> str:
        """Queue a job and return the id of its run.

        Raises
        ------
        OptikitError
            If nobody answers at the address, or the job is refused.
        """
        submission = {"key": SUBMISSION_TAG, "value": uuid4().hex}
        try:
            return self._launch(job, submission)
        except _UnansweredError as error:
            # It may have been queued all the same: to submit it again would run it twice.
            found = self._ask(_FIND, wanted={"tags": [submission]})["runsOrError"].get("results")
            if found:
                return found[0]["runId"]
            raise OptikitError(
                f"{error}; before it is submitted again, look whether it was queued, as a run with "
                f"the tag {SUBMISSION_TAG}={submission['value']}"
            ) from error

    def _launch(self, job: JobSpec, submission: dict[str, str]) -> str:
        named = {"slos": job.slos, "recipes": job.recipes, "pools": job.pools}
        config = {"model": job.model, "flow": job.flow}
        config |= {name: list(values) for name, values in named.items() if values}
        answer = self._ask(
            _LAUNCH,
            job={
                "selector": {
                    "repositoryLocationName": _LOCATION,
                    "repositoryName": _REPOSITORY,
                    "jobName": OPTIMIZE_JOB,
                },
                "runConfigData": {"ops": {"optimize": {"config": config}}},
                "executionMetadata": {
                    "tags": [{"key": "optikit/job", "value": job.name}, submission]
                },
            },
        )["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            errors = answer.get("errors", [answer])
            said = [error.get("message") or error["__typename"] for error in errors]
            raise OptikitError(f"{self.url} refused the job: {'; '.join(said)}")
        return answer["run"]["runId"]

    def page_of(self, run_id: str) -> str:
        """Return the address of a run in the UI."""
        return f"{self.url}/runs/{run_id}"

    def follow(self, run_id: str) -> Iterator["Seen"]:
        """Yield what is new of a run, until it has ended.

        Raises
        ------
        OptikitError
            If nobody answers for five minutes: the run goes on, or does not, without us; and if
            the run was deleted.
        """
        cursor: str | None = None
        heard_at = time.monotonic()
        while True:
            try:
                answer = self._ask(_LOGS, run=run_id, after=cursor)
                status = self._status(answer["runOrError"], run_id)
            except _RunGoneError:
                raise
            except OptikitError:
                if time.monotonic() - heard_at > _LOST_LIMIT_S:
                    raise
                time.sleep(_POLL_S)
                continue
            heard_at = time.monotonic()
            logs = answer["logsForRun"]
            cursor = logs.get("cursor", cursor)
            lines = [line for event in logs.get("events", []) if (line := _line(event))]
            yield Seen(status, lines)
            if status in _ENDED and not logs.get("hasMore"):
                return
            if not logs.get("hasMore"):
                time.sleep(_POLL_S)

    def _status(self, run: dict[str, Any], run_id: str) -> str:
        if "status" in run:
            return run["status"]
        if run["__typename"] == "RunNotFoundError":
            raise _RunGoneError(f"{self.url} knows no run {run_id} any more: it was deleted")
        raise OptikitError(f"{self.url}: {run.get('message') or run['__typename']}")

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        try:
            answer = self._client.post(
                f"{self.url}/graphql", json={"query": query, "variables": variables}
            )
            answer.raise_for_status()
            content = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            unanswered = isinstance(error, _UNANSWERED)
            raise (_UnansweredError if unanswered else OptikitError)(
                f"no Dagster answers at {self.url} ({one_line(error)}): start one with `make dev`, "
                "or name its address with --url or OPTIKIT_DAGSTER_URL"
            ) from error
        if content.get("errors"):
            raise OptikitError(f"{self.url}: {content['errors'][0]['message']}")
        return content["data"]


class Seen(NamedTuple):
    """What is new of a run."""

    status: str
    lines: list[str]


def _line(event: dict[str, Any]) -> str:
    """Return what an event says to people: what the job logs, and why it failed."""
    if event["__typename"] in ("LogMessageEvent", "RunFailureEvent"):
        return event["message"]
    if error := event.get("error"):
        causes = [cause["message"] for cause in error.get("causes") or []]
        return " ".join((causes or [error["message"]])[-1].split())
    return ""


def run_submit(job: JobSpec, url: str, watch: bool) -> int:
    """Queue a job and say where it is; with `watch` follow it, 0 only if it succeeds."""
    dagster = RunningDagster(url)
    run_id = dagster.launch(job)
    console = Console()
    console.print(f"queued as {dagster.page_of(run_id)}", highlight=False, soft_wrap=True)
    if not watch:
        return 0
    status = ""
    for seen in dagster.follow(run_id):
        status = seen.status
        for line in seen.lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"the run ended: {status}", highlight=False)
    return 0 if status == "SUCCESS" else 1
