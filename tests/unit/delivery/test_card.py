"""What a hub shows of a release."""

import yaml

from optikit_assets.releases.card import card_of
from tests.unit.deployment import samples


def parts(card):
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_card_names_base_model_recipe_scores_and_the_rate_with_its_hardware():
    deployment = samples.deployment()
    front, text = parts(card_of(deployment, "hf:Qwen/Qwen2.5-7B-Instruct@main"))
    assert front == {
        "library_name": "vllm",
        "base_model": "Qwen/Qwen2.5-7B-Instruct",
        "base_model_relation": "quantized",
        "tags": ["optikit", deployment.recipe],
    }
    rate = f"{deployment.certified_rate_rps:.3g} requests/s on "
    (line,) = [line for line in text.splitlines() if rate in line]
    assert deployment.accelerator in line
    gain = deployment.gain
    assert f"{gain.estimate:.2f} times" in text
    assert f"(paired interval {gain.low:.2f} to {gain.high:.2f})" in text
    quality = next(q for q in deployment.quality if q.recipe == deployment.recipe)
    for row in quality.tasks:
        assert f"| {row.task} | {row.baseline_score:.3f} | {row.score:.3f} | " in text
        assert f"{row.recovery:.3f} ({row.low:.3f} to {row.high:.3f})" in text


def test_a_model_that_is_on_no_hub_is_named_in_the_text_alone():
    deployment = samples.deployment().model_copy(update={"recipe": "baseline", "tuned": False})
    front, text = parts(card_of(deployment, "/data/models/qwen/1"))
    assert front == {"library_name": "vllm", "tags": ["optikit"]}
    assert "/data/models" not in text
    assert f"Base model: {deployment.model}, version {deployment.model_version}" in text
