"""Pool files: what they may say, and what is wrong with them in one line each."""

import re
import shutil
from pathlib import Path

import pytest

from optikit_assets.errors import SpecError, UnknownNameError
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import LOCAL, CardSpec, Catalog, PoolSpec, load_spec

H100 = """\
name: h100
accelerator: H100
cards_per_node: 8
memory_gib: 80
price_per_hour: 4.0
reach: {ray.io/accelerator-type: H100}
"""


def load(folder: Path, text: str, name: str = "h100") -> PoolSpec:
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return load_spec(file, PoolSpec)


def test_a_pool_says_what_its_nodes_are_and_how_they_are_reached(tmp_path: Path) -> None:
    pool = load(tmp_path, H100)
    assert (pool.accelerator, pool.cards_per_node, pool.memory_gib) == ("H100", 8, 80)
    assert pool.price_per_hour == 4.0
    assert pool.labels == {"ray.io/accelerator-type": "H100"}


def test_the_machine_itself_may_be_described_too(tmp_path: Path) -> None:
    pool = load(tmp_path, "name: local\nprice_per_hour: 0.4\nreach: local\n", "local")
    assert (pool.price_per_hour, pool.labels) == (0.4, {})


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("price_per_hour: 4.0", "price_per_hour: 0", "price_per_hour: input should be greater"),
        ("cards_per_node: 8", "cards_per_node: 0", "cards_per_node: input should be greater"),
        ("cards_per_node: 8", "nodes: 8", "nodes: unknown key (got 8)"),
        ("cards_per_node: 8\n", "", "cards_per_node: required of a pool that labels select"),
        ("reach: {ray.io/accelerator-type: H100}", "reach: ray", "reach.local: input should be"),
        ("reach: {ray.io/accelerator-type: H100}", "reach: {}", "reach.labels: dictionary should"),
        ("reach: {ray.io/accelerator-type: H100}", "reach: {a: 1}", "reach.labels.a: input should"),
        ("reach: {ray.io/accelerator-type: H100}", "reach: [a]", "reach.labels: input should be"),
        ("name: h100", "name: h100@fast", "name: 'h100@fast' may not contain @"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    assert old in H100
    with pytest.raises(SpecError) as caught:
        load(tmp_path, H100.replace(old, new))
    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_labels_do_not_select_the_machine_itself(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the pool local is the machine itself"):
        load(tmp_path, H100.replace("h100", "local"), "local")


def test_neither_price_nor_way_there_is_a_fact_of_the_hardware(tmp_path: Path) -> None:
    known = load(tmp_path, H100).digest()
    dearer = H100.replace("4.0", "5.5").replace("ray.io/accelerator-type: H100", "zone: b")
    assert load(tmp_path, dearer).digest() == known
    assert load(tmp_path, H100.replace("memory_gib: 80", "memory_gib: 94")).digest() != known


def test_a_catalog_knows_the_machine_itself_without_a_file() -> None:
    catalog = Catalog(Path("recipes"))
    assert catalog.pool(LOCAL) == PoolSpec(name=LOCAL)
    with pytest.raises(UnknownNameError, match="unknown hardware pool 'h100'; known: local"):
        catalog.pool("h100")


PAGE = (Path(__file__).parents[3] / "docs" / "hardware.md").read_text(encoding="utf-8")


def test_the_page_of_pools_has_examples_that_load_and_names_every_key(tmp_path: Path) -> None:
    pool, sheet = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert load(tmp_path, pool).labels == {"ray.io/accelerator-type": "H100"}
    file = tmp_path / "cpu.yaml"
    file.write_text(sheet)
    assert load_spec(file, CardSpec).accelerator == "CPU"
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert named >= set(PoolSpec.model_fields) - {"name", "description"}


def test_who_names_a_pool_that_is_not_there_is_told(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    slo = tmp_path / "recipes" / "slos" / "demo.yaml"
    slo.write_text(slo.read_text() + "pools: [local, h100]\n")
    with pytest.raises(SpecError, match=r"slos/demo.yaml.*unknown hardware pool 'h100'.*local"):
        Catalog.load(tmp_path / "recipes").slo("demo")


def test_on_which_pools_an_slo_is_asked_changes_nothing_of_what_is_asked() -> None:
    catalog = Catalog.load(REPOSITORY / "recipes")
    slo = catalog.slo("demo")
    assert slo.model_copy(update={"pools": ("h100",)}).digest() == slo.digest()
