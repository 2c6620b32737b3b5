"""What is decided before an engine or an endpoint is asked; both run in the integration tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.errors import EndpointError, EvaluationError
from optikit_assets.stateval.endpoint import (
    check_endpoint_tasks,
    refusing_silence,
    served_model,
    tokenizer_in,
)
from tests.servers.imitation import Behaviour, running


@dataclass(frozen=True)
class Task:
    """The part of an lm-eval task that says what kind it is."""

    output_type: str

    def get_config(self, key: str) -> str:
        return {"output_type": self.output_type, "task": "hellaswag"}[key]


GENERATION, CHOICE = Task("generate_until"), Task("multiple_choice")


def is_refused(task: Task, chat: bool) -> bool:
    try:
        check_endpoint_tasks([task], chat=chat, tokenizer=None)
    except EvaluationError:
        return True
    return False


@pytest.mark.parametrize("chat", [True, False])
def test_generation_can_be_asked_of_every_endpoint(chat: bool) -> None:
    assert not is_refused(GENERATION, chat)
    assert is_refused(CHOICE, chat)


def test_given_answers_cannot_be_scored_by_a_chat_endpoint() -> None:
    with pytest.raises(EvaluationError, match=r"'hellaswag' scores given answers .* chat endpoint"):
        check_endpoint_tasks([GENERATION, CHOICE], chat=True, tokenizer="folder")


def test_given_answers_need_the_tokenizer() -> None:
    check_endpoint_tasks([CHOICE], chat=False, tokenizer="folder")
    with pytest.raises(EvaluationError, match=r"name a folder that holds tokenizer\.json"):
        check_endpoint_tasks([CHOICE], chat=False, tokenizer=None)


def test_only_a_folder_with_a_tokenizer_is_one(tmp_path: Path) -> None:
    assert tokenizer_in(None) is tokenizer_in("") is tokenizer_in(str(tmp_path)) is None
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert tokenizer_in(str(tmp_path)) == str(tmp_path)


def test_the_wanted_model_has_to_be_served() -> None:
    with running(Behaviour(model="llama")) as server:
        assert served_model(server.base_url) == "llama"
        assert served_model(server.base_url + "/", "llama") == "llama"
        with pytest.raises(EndpointError, match="does not list 'qwen'; it serves: llama"):
            served_model(server.base_url, "qwen")


def test_an_endpoint_that_does_not_list_its_models_is_believed() -> None:
    with running(Behaviour(lists_models=False)) as server:
        assert served_model(server.base_url, "qwen") == "qwen"
        with pytest.raises(EndpointError, match="does not list a model"):
            served_model(server.base_url)


CHAT = {"index": 0, "message": {"role": "assistant", "content": "4"}}


class Lenient:
    """As lm-eval's endpoint models: whatever is not there is an empty answer."""

    base_url = "http://host/v1/chat/completions"

    def parse_generations(self, outputs: Any, **options: Any) -> list[str]:
        return [""]

    @staticmethod
    def parse_logprobs(outputs: Any, **options: Any) -> list[tuple[float, bool]]:
        return [(0.0, False)]


@pytest.mark.parametrize("reply", [{"choices": [CHAT]}, {"choices": [{"index": 0, "text": ""}]}])
def test_an_answer_is_passed_on_even_an_empty_one(reply: dict[str, Any]) -> None:
    assert refusing_silence(Lenient)().parse_generations(outputs=reply) == [""]


@pytest.mark.parametrize(
    "reply",
    [
        {"error": "no such model"},
        {"choices": []},
        {"choices": None},
        {"choices": [CHAT, {"index": 1, "message": {"content": None}}]},
        {"choices": [{"index": 0, "message": {"reasoning": "Two and two"}}]},
        {"choices": [{"index": 0, "text": None}]},
        [],
        None,
    ],
)
def test_a_reply_without_an_answer_is_an_error_and_no_empty_answer(reply: Any) -> None:
    with pytest.raises(EndpointError, match="http://host/v1/chat/completions replied without an"):
        refusing_silence(Lenient)().parse_generations(outputs=[reply])


def test_a_reply_without_log_probabilities_is_an_error() -> None:
    model = refusing_silence(Lenient)()
    good = {"choices": [{"index": 0, "text": "", "logprobs": {"token_logprobs": [-1.0]}}]}
    assert model.parse_logprobs(outputs=good, ctxlens=[1]) == [(0.0, False)]
    with pytest.raises(EndpointError, match="replied without an answer"):
        model.parse_logprobs(outputs={"choices": [{"text": "", "logprobs": None}]}, ctxlens=[1])


def test_an_address_that_is_none_is_an_error() -> None:
    with pytest.raises(EndpointError, match="localhost:80a/v1/models does not list a model"):
        served_model("http://localhost:80a/v1", "qwen")
