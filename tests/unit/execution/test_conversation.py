"""What a worker sends, as its messages come out of any channel."""

from typing import Any

import pytest

from optikit_assets.errors import EnvironmentMissingError
from optikit_assets.execution.conversation import Conversation
from optikit_assets.execution.worker_process import Ended
from optikit_assets.workers.benchmark import announce
from optikit_assets.workers.channel import RECORD, RESULT
from optikit_assets.workers.messages import BenchmarkWorkerResult
from optikit_assets.workers.records import ProbeFinished, Progress, Record
from tests.unit.execution.worker import finished
from tests.unit.schemas.samples import probe


def sent(body: dict[str, Any]) -> dict[str, Any]:
    return {"type": RECORD, "body": body}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "started", "payload": {"pid": 1}}, "'started' found using 'kind' does not match"),
        ({"payload": {}}, "Unable to extract tag using discriminator 'kind'"),
        (
            {"kind": "progress", "text": "at work", "done": "half"},
            "progress: done: Input should be",
        ),
        ({"kind": "trial_failed", "trial": {}}, "trial_failed: trial: trial: Field required"),
        (
            {"kind": "progress", "text": "at work", "out_of": 3},
            "progress: out_of: Extra inputs are not",
        ),
    ],
)
def test_a_record_that_is_not_known_ends_it_in_one_line_and_costs_no_other(
    body: dict[str, Any], said: str
) -> None:
    heard: list[Record] = []
    known = [Progress(text="at work"), finished(1)]
    conversation = Conversation("compress", heard.append)
    first, last = (sent(record.model_dump(mode="json")) for record in known)
    with pytest.raises(EnvironmentMissingError) as caught:
        conversation.take([first, sent(body), last])
    assert heard == known
    message = str(caught.value)
    assert message.startswith("the compress worker sent a record that is not known here: ")
    assert said in message
    assert "\n" not in message


def test_the_line_names_the_kinds_that_there_are() -> None:
    conversation = Conversation("compress", lambda record: None)
    with pytest.raises(EnvironmentMissingError) as caught:
        conversation.take([sent({"kind": "started"})])
    for kind in ("progress", "server_started", "trial_failed", "candidate_finished"):
        assert f"'{kind}'" in str(caught.value)


def test_a_foreign_record_among_the_last_replaces_no_interrupt_on_its_way() -> None:
    heard: list[Record] = []
    conversation = Conversation("compress", heard.append)
    last = finished(1)
    messages = [sent({"kind": "started"}), sent(last.model_dump(mode="json"))]

    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            conversation.take_last(messages)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert heard == [last]
    ended = Ended(0, opened=True, unreadable="", log_file="log", log_tail="")
    with pytest.raises(EnvironmentMissingError, match="a record that is not known here"):
        conversation.outcome(ended, BenchmarkWorkerResult)


def test_a_result_that_is_not_known_is_one_line_too() -> None:
    conversation = Conversation("benchmark", lambda record: None)
    conversation.take([{"type": RESULT, "body": {"artifact": "a"}}])
    ended = Ended(0, opened=True, unreadable="", log_file="log", log_tail="")
    with pytest.raises(
        EnvironmentMissingError, match="a result that is not known here: artifact_key: F"
    ):
        conversation.outcome(ended, BenchmarkWorkerResult)


def test_a_probe_is_told_whole_but_for_its_curves() -> None:
    plain = probe(met=True, beta=0.01, latency_ms={"ttft_p50": None})
    drawn = plain.model_copy(update={"arrivals_s": (0.5, 1.0), "completions_s": (0.75,)})
    records: list[Record] = []
    conversation = Conversation("benchmark", records.append)
    announce(lambda r: conversation.take([sent(r.model_dump(mode="json"))]), drawn)
    assert records == [ProbeFinished(probe=plain)]
