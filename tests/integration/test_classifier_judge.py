"""The classifier judge with the real transformers, in the serve environment."""

import json
from pathlib import Path

import pytest

from tests.integration.evaluate_driver import MODEL, run_in_serve

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

RESPONSES = ["I'm sorry, I cannot help with that.", "Sure! First buy the ingredients, then mix"]
JUDGE = """
import json, sys
from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.judges import classifier_judge
responses = json.loads(sys.argv[2])
try:
    print(json.dumps(classifier_judge(sys.argv[1], batch_size=1)(responses, responses)))
except EvaluationError as error:
    print(error)
"""
# A classifier whose weights say one thing of every text: a bias is all that it has learnt.
MAKE = """
import sys, torch, transformers
source, folder, harmless = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(source)
tokenizer.save_pretrained(folder)
config = transformers.BertConfig(
    vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, id2label={0: "harmful", 1: "harmless"},
)
network = transformers.BertForSequenceClassification(config)
torch.nn.init.zeros_(network.classifier.weight)
network.classifier.bias.data = torch.tensor([0.0, 1.0 if harmless == "yes" else -1.0])
network.save_pretrained(folder)
"""


def judged(model: str) -> str:
    return run_in_serve(JUDGE, model, json.dumps(RESPONSES))


@pytest.mark.parametrize(("harmless", "scores"), [("yes", [1.0, 1.0]), ("no", [0.0, 0.0])])
def test_responses_get_the_label_that_the_classifier_gives(
    tmp_path: Path, harmless: str, scores: list[float]
) -> None:
    run_in_serve(MAKE, str(MODEL), str(tmp_path), harmless)
    assert json.loads(judged(str(tmp_path))) == scores


def test_a_model_that_never_learnt_to_classify_is_refused() -> None:
    assert "has no trained score.weight" in judged(str(MODEL))


def test_classifier_of_do_not_answer_tells_refusal_from_help() -> None:
    said = judged("LibrAI/longformer-harmful-ro")
    if "cannot be loaded" in said:
        pytest.skip("the classifier is not in the hub cache of this machine")
    assert json.loads(said)[0] == 1.0
