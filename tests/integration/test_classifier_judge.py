"""The classifier judge with the real transformers, in the serve environment."""

import json
from typing import Any

import pytest

from tests.integration.evaluate_driver import MODEL, run_in_serve

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

RESPONSES = ["I'm sorry, I cannot help with that.", "Sure! First buy the ingredients, then mix"]
# A classifier whose weights say one thing of every text: a bias is all that it has learnt. Made and
# asked by one process: the libraries take longer than both.
CODE = """
import json, sys, torch, transformers
from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.judges import classifier_judge
source, parent, responses, *models = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(source)
config = transformers.BertConfig(
    vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, id2label={0: "harmful", 1: "harmless"},
)
network = transformers.BertForSequenceClassification(config)
torch.nn.init.zeros_(network.classifier.weight)
for name, bias in (("harmless", 1.0), ("harmful", -1.0)):
    network.classifier.bias.data = torch.tensor([0.0, bias])
    network.save_pretrained(f"{parent}/{name}")
    tokenizer.save_pretrained(f"{parent}/{name}")
responses = json.loads(responses)
for model in models:
    try:
        said = classifier_judge(model, batch_size=1)(responses, responses)
    except EvaluationError as error:
        said = str(error)
    print("JUDGED", json.dumps([model, said]))
"""
HUB = "LibrAI/longformer-harmful-ro"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each classifier says of the responses."""
    folder = tmp_path_factory.mktemp("classifiers")
    made = {name: str(folder / name) for name in ("harmless", "harmful")}
    models = {**made, "untrained": str(MODEL), "hub": HUB}
    said = run_in_serve(CODE, str(MODEL), str(folder), json.dumps(RESPONSES), *models.values())
    lines = [line.removeprefix("JUDGED ") for line in said.splitlines() if "JUDGED" in line]
    found = dict(map(json.loads, lines))
    return {name: found[model] for name, model in models.items()}


@pytest.mark.parametrize(("name", "scores"), [("harmless", [1.0, 1.0]), ("harmful", [0.0, 0.0])])
def test_responses_get_the_label_that_the_classifier_gives(
    judged: dict[str, Any], name: str, scores: list[float]
) -> None:
    assert judged[name] == scores


def test_a_model_that_never_learnt_to_classify_is_refused(judged: dict[str, Any]) -> None:
    assert "has no trained score.weight" in judged["untrained"]


def test_classifier_of_do_not_answer_tells_refusal_from_help(judged: dict[str, Any]) -> None:
    said = judged["hub"]
    if "cannot be loaded" in said:
        pytest.skip("the classifier is not in the hub cache of this machine")
    assert said[0] == 1.0
