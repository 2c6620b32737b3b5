# ruff: noqa: E501 (tables read better with one case per line)
"""Specs that refer to each other, and the recipes that ship."""

from pathlib import Path

import pytest

from optikit_assets.errors import SpecError, UnknownNameError
from optikit_assets.specs import Catalog, RecipeSpec, load_spec
from tests.unit.specs.conftest import Write

SHIPPED = Path(__file__).parents[3] / "recipes" / "quantization"


def test_a_consistent_folder_loads_with_sorted_names(catalog_root: Path) -> None:
    catalog = Catalog.load(catalog_root)
    assert list(catalog.recipes) == ["baseline", "int_w8a8"]
    assert catalog.recipe("baseline").is_baseline
    assert catalog.task_folder("paper") == catalog_root / "evaluations" / "tasks"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("slos/chat.yaml", "name: chat\nworkload: {input_tokens: 1, output_tokens: 1}\nsearch_space: gone\n", "recipes/slos/chat.yaml: search_space: unknown search space 'gone'; known: default"),
        ("models/m.yaml", "name: m\nsuite: gone\n", "recipes/models/m.yaml: suite: unknown evaluation suite 'gone'; known: paper"),
        ("jobs/night.yaml", "name: night\nmodel: m\nslos: [chat, gone]\n", "recipes/jobs/night.yaml: slos: unknown SLO 'gone'; known: chat"),
        ("jobs/night.yaml", "name: night\nmodel: m\nslos: [chat]\nrecipes: [x, y]\n", "recipes: unknown recipe 'x'; known: baseline, int_w8a8; recipes/jobs/night.yaml: recipes: unknown recipe 'y'"),
        ("evaluations/paper.yaml", "name: paper\ntask_folder: gone\ntasks: [{task: a, metrics: [acc]}]\n", "recipes/evaluations/paper.yaml: task_folder: 'gone' is not a folder"),
    ],
)  # fmt: skip
def test_a_reference_to_nothing_names_file_key_and_known_names(
    catalog_root: Path, write: Write, name: str, text: str, expected: str
) -> None:
    write(text, name)
    folder, file = name.split("/")
    broken = Catalog.load(catalog_root).broken[folder]
    assert expected in str(broken[file.removesuffix(".yaml")])


def test_a_folder_without_baseline_has_no_baseline_to_use(catalog_root: Path) -> None:
    (catalog_root / "quantization" / "baseline.yaml").unlink()
    catalog = Catalog.load(catalog_root)
    with pytest.raises(SpecError, match=r"recipes/quantization: baseline.yaml missing"):
        catalog.recipe("baseline")
    assert catalog.recipe("int_w8a8").name == "int_w8a8"


BROKEN = "name: {0}\ntrials: many\nparameters: {{max_num_seqs: {{choices: [64]}}}}\n"


def test_a_broken_file_takes_out_itself_and_what_refers_to_it_and_nothing_else(
    catalog_root: Path, write: Write
) -> None:
    write(BROKEN.format("own"), "search_spaces/own.yaml")
    slo = "workload: {input_tokens: 1, output_tokens: 1}\n"
    write(f"name: rag\nsearch_space: own\n{slo}", "slos/rag.yaml")
    write("name: noon\nmodel: m\nslos: [chat, rag]\n", "jobs/noon.yaml")
    catalog = Catalog.load(catalog_root)
    assert {folder: list(names) for folder, names in catalog.broken.items() if names} == {
        "search_spaces": ["own"],
        "slos": ["rag"],
        "jobs": ["noon"],
    }
    # What is at fault is named with file, key and range wherever it is met.
    fault = "recipes/search_spaces/own.yaml: trials: input should be a valid integer (got 'many')"
    for look_up in (
        lambda: catalog.search_space("own"),
        lambda: catalog.slo("rag"),
        lambda: catalog.scenario_digest("rag"),
        lambda: catalog.job("noon"),
    ):
        with pytest.raises(SpecError) as caught:
            look_up()
        assert fault in str(caught.value)
    assert (list(catalog.slos), list(catalog.jobs)) == (["chat"], ["night"])
    assert catalog.names("slos") == ["chat", "rag"]
    assert [error.file for error in catalog.problems] == [
        "recipes/slos/rag.yaml",
        "recipes/search_spaces/own.yaml",
        "recipes/jobs/noon.yaml",
    ]


def test_a_broken_model_or_pool_is_never_replaced_by_its_default(
    catalog_root: Path, write: Write
) -> None:
    write("name: m\nsuite: paper\ncalibration: x\n", "models/m.yaml")
    catalog = Catalog.load(catalog_root)
    with pytest.raises(SpecError, match=r"recipes/models/m\.yaml: calibration: unknown key"):
        catalog.model("m")
    with pytest.raises(SpecError, match=r"jobs/night\.yaml: model: 'm' cannot be used: recipes/mo"):
        catalog.job("night")
    write("name: local\nprice_per_hour: free\n", "hardware/local.yaml")
    catalog = Catalog.load(catalog_root)
    with pytest.raises(SpecError, match=r"recipes/hardware/local\.yaml: price_per_hour: "):
        catalog.pool("local")
    # It is where an SLO is measured that names no pool.
    with pytest.raises(SpecError, match=r"slos/chat\.yaml: pools: 'local' cannot be used: rec"):
        catalog.slo("chat")


def test_a_model_stays_usable_while_one_of_the_slos_that_it_asks_for_is_broken(
    catalog_root: Path, write: Write
) -> None:
    write("name: m\nslos: [chat]\n", "models/m.yaml")
    write("name: chat\n", "slos/chat.yaml")
    catalog = Catalog.load(catalog_root)
    assert catalog.model("m").slos == ("chat",)
    assert list(catalog.broken["slos"]) == ["chat"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is not a folder"):
        Catalog.load(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["recipe", "slo", "suite", "search_space"])
def test_unknown_names_list_the_known_ones(catalog_root: Path, kind: str) -> None:
    with pytest.raises(UnknownNameError, match=r"'gone'; known: "):
        getattr(Catalog.load(catalog_root), kind)("gone")


def test_models_need_no_file(catalog_root: Path) -> None:
    model = Catalog.load(catalog_root).model("unlisted")
    assert model.name == "unlisted"
    assert model.trust_remote_code is False


def test_a_scenario_changes_with_its_search_space(catalog_root: Path, write: Write) -> None:
    before = Catalog.load(catalog_root).scenario_digest("chat")
    write("name: default\nparameters: {max_num_seqs: {choices: [64, 256]}}\n", "search_spaces/default.yaml")  # fmt: skip
    assert Catalog.load(catalog_root).scenario_digest("chat") != before


class TestShippedRecipes:
    @pytest.fixture
    def shipped(self) -> dict[str, RecipeSpec]:
        return {file.stem: load_spec(file, RecipeSpec) for file in SHIPPED.glob("*.yaml")}

    def test_the_papers_three_and_the_baseline_are_there(self, shipped) -> None:
        assert {"baseline", "int_w8a8", "int_w4a16", "fp8_dynamic"} <= set(shipped)
        assert shipped["baseline"].is_baseline

    @pytest.mark.parametrize(("name", "samples"), [("int_w8a8", 256), ("int_w4a16", 512)])
    def test_integer_recipes_calibrate_as_the_paper_does(self, shipped, name, samples) -> None:
        # Section 5.1: five trials, 256 random samples for W8A8 and 512 for W4A16.
        recipe = shipped[name]
        assert recipe.calibration.samples == samples
        assert recipe.calibration.sampler == "random"
        assert recipe.trials == 5

    def test_w8a8_smooths_before_it_quantizes(self, shipped) -> None:
        smooth, quantize = shipped["int_w8a8"].modifiers
        assert (smooth.type, smooth.smoothing_strength) == ("smoothquant", 0.8)
        assert (quantize.type, quantize.scheme) == ("gptq", "W8A8")

    def test_fp8_dynamic_needs_no_data_and_one_trial(self, shipped) -> None:
        recipe = shipped["fp8_dynamic"]
        assert recipe.calibration is None
        assert recipe.trials == 1

    @pytest.mark.parametrize("name", ["int_w8a8", "int_w4a16", "fp8_dynamic"])
    def test_output_layers_and_routers_are_left_alone(self, shipped, name) -> None:
        from optikit_assets.optimizer.architecture import select_layers

        left_alone = [
            "lm_head",
            "model.language_model.lm_head",
            "model.layers.3.mlp.gate",
            "model.layers.3.mlp.shared_expert_gate",
            "model.layers.3.block_sparse_moe.gate",
            "model.layers.3.feed_forward.router",
        ]
        quantized = ["model.layers.3.mlp.gate_proj", "model.layers.3.mlp.experts.0.gate_proj"]
        layers = dict.fromkeys([*left_alone, *quantized], (256, 256))
        recipe = shipped[name]
        assert list(select_layers(layers, recipe.targets, recipe.ignore)) == quantized
