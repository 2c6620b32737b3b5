"""Names that other packages register, from metadata that was made up."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optikit_assets.errors import EnvironmentMissingError, SpecError
from optikit_assets.graph import EVAL_SCORES, Node, get_flow
from optikit_assets.optimizer import draw, get_backend, sampler_names
from optikit_assets.specs import Catalog, JobSpec, RecipeSpec, plugins
from tests.unit.specs.conftest import RECIPE, Write

MODULE = """\
from optikit_assets.graph import EVAL_SCORES, Flow

score = Flow("score", frozenset({EVAL_SCORES}))

class Backend:
    def versions(self):
        return {"acme": "1"}

def first(tokens, samples, rng):
    return list(range(samples))
"""
ENTRY_POINTS = """\
[optikit.backends]
acme = acme_kit:Backend
[optikit.samplers]
first = acme_kit:first
[optikit.flows]
score = acme_kit:score
"""
OWN = "name: own\nbackend: acme\noptions: {bits: 3}\n"

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package into a folder on the path, as an installer does."""

    def add(name: str = "acme", version: str = "1.2", entry_points: str = ENTRY_POINTS) -> Path:
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entry_points)
        (site / f"{name}_kit.py").write_text(MODULE)
        monkeypatch.syspath_prepend(site)
        plugins.registered.cache_clear()
        return site

    yield add
    plugins.registered.cache_clear()


def test_registered_names_are_admitted_and_found(install: Install, write: Write) -> None:
    with pytest.raises(ValueError, match="no backend of this name is installed"):
        RecipeSpec(name="own", backend="acme")
    install()
    assert RecipeSpec(name="own", backend="acme", options={"bits": 3}).options == {"bits": 3}
    assert get_backend("acme").versions() == {"acme": "1"}
    assert "first" in sampler_names()
    assert draw("first", [[1]] * 5, 2, seed=0) == [0, 1]


def test_the_package_and_its_version_are_part_of_a_recipes_digest(
    install: Install, tmp_path: Path
) -> None:
    install()
    own = RecipeSpec(name="own", backend="acme")
    before = own.digest()
    assert own.packages == {"acme": "acme==1.2"}
    (info,) = (tmp_path / "site-acme").glob("*.dist-info")
    info.rename(info.with_name("acme-1.3.dist-info"))
    metadata = tmp_path / "site-acme" / "acme-1.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    plugins.registered.cache_clear()
    assert own.packages == {"acme": "acme==1.3"}
    assert own.digest() != before


def test_a_sampler_of_a_package_counts_too_and_own_names_do_not(install: Install) -> None:
    install()
    raw = {
        "name": "r",
        "backend": "llmcompressor",
        "modifiers": [{"type": "gptq", "scheme": "W8A8"}],
        "calibration": {"samples": 8, "sampler": "first"},
    }
    assert RecipeSpec.model_validate(raw).packages == {"first": "acme==1.2"}
    raw["calibration"] = {"samples": 8, "adaptive": {"max_rounds": 2, "samplers": ["first"]}}
    assert RecipeSpec.model_validate(raw).packages == {"first": "acme==1.2"}
    raw["calibration"] = {"samples": 8}
    assert RecipeSpec.model_validate(raw).packages == {}


def test_recipes_of_a_package_join_the_catalog(install: Install, catalog_root: Path) -> None:
    site = install(entry_points=ENTRY_POINTS + "[optikit.recipes]\nacme = acme_recipes\n")
    folder = site / "acme_recipes"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "own.yaml").write_text(OWN)
    assert list(Catalog.load(catalog_root).recipes) == ["baseline", "int_w8a8", "own"]
    (folder / "own.yaml").write_text(OWN.replace("acme", "acm"))
    with pytest.raises(SpecError, match=r"^acme:own\.yaml: backend: no b"):
        Catalog.load(catalog_root).recipe("own")
    (folder / "own.yaml").unlink()
    (folder / "int_w8a8.yaml").write_text(RECIPE)
    with pytest.raises(
        SpecError, match=r"^acme:int_w8a8\.yaml: name: there is a recipe 'int_w8a8'"
    ):
        # Of two that have one name neither is used.
        Catalog.load(catalog_root).recipe("int_w8a8")


def test_an_entry_point_that_is_no_package_is_named(install: Install, catalog_root: Path) -> None:
    install(entry_points="[optikit.recipes]\nacme = nowhere_at_all\n")
    with pytest.raises(
        EnvironmentMissingError, match=r"acme==1\.2 .* nowhere_at_all is not a pack"
    ):
        Catalog.load(catalog_root)


def test_a_backend_that_cannot_be_imported_is_named(install: Install) -> None:
    install(entry_points="[optikit.backends]\nbroken = acme_kit:Missing\n")
    with pytest.raises(EnvironmentMissingError, match=r"'broken' of acme==1\.2 cannot be loaded"):
        get_backend("broken")


def test_a_flow_of_a_package_is_one_that_jobs_may_name(install: Install) -> None:
    with pytest.raises(ValueError, match="no flow of this name is installed; known: benchmark_on"):
        JobSpec(name="night", model="m", flow="score")
    install()
    job = JobSpec(name="night", model="m", flow="score")
    flow = get_flow(job.flow)
    assert not flow.measures
    # The baseline's checkpoint is the model itself, and part of every flow.
    assert flow.nodes("m@1", (), ["int_w8a8", "baseline"]) == [
        Node.of("quantized_model", "m@1|baseline"),
        Node.of(EVAL_SCORES, "m@1|baseline"),
        Node.of(EVAL_SCORES, "m@1|int_w8a8"),
    ]


@pytest.mark.parametrize("entry", ["other = acme_kit:score", "other = acme_kit:first"])
def test_what_is_no_flow_of_its_name_is_refused(install: Install, entry: str) -> None:
    install(entry_points=f"[optikit.flows]\n{entry}\n")
    with pytest.raises(
        EnvironmentMissingError, match=r"acme==1\.2 registers 'other' in optikit\.f"
    ):
        get_flow("other")


def test_two_packages_with_one_name_are_refused(install: Install) -> None:
    install("acme")
    install("other", entry_points=ENTRY_POINTS.replace("acme_kit", "other_kit"))
    with pytest.raises(EnvironmentMissingError, match=r"registers 'acme' in optikit\.backends"):
        plugins.registered(plugins.BACKENDS)


def test_own_names_cannot_be_taken(install: Install) -> None:
    install(entry_points="[optikit.backends]\nllmcompressor = acme_kit:Backend\n")
    with pytest.raises(EnvironmentMissingError, match=r"acme==1\.2 .* as OptiKIT itself does"):
        plugins.registered(plugins.BACKENDS)
