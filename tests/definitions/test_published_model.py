"""The asset `published_model`, run by Dagster, with folders and a broken target."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from optikit_assets import graph
from optikit_assets.defs import partitions
from optikit_assets.defs.assets import resources
from optikit_assets.defs.publishing.published_model import published_model
from optikit_assets.defs.recorded import DATA_VERSION_TAG
from optikit_assets.history import History
from optikit_assets.settings import REPOSITORY, settings
from tests.bundles import keep_plain_bundle

MODEL, SLO = "tiny@1", partitions.SLOS[0]
# Of the bundle, whichever SLO the partition is of.
FOR_ONE = f"models: [tiny]\nslos: [{SLO}]\n"
PARTITION = dg.MultiPartitionKey({"model": MODEL, "slo": SLO})


@pytest.fixture
def decided(
    home: Path, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Have a decision with its bundle; return the folder for targets."""
    recipes = tmp_path / "recipes"
    shutil.copytree(REPOSITORY / "recipes", recipes)
    (recipes / "publish").mkdir(exist_ok=True)
    monkeypatch.setenv("OPTIKIT_RECIPES", str(recipes))
    settings.cache_clear()
    artifact, _ = keep_plain_bundle(tmp_path)
    instance.add_dynamic_partitions(partitions.MODEL_DIMENSION, [MODEL])
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            graph.DEPLOYABLE_CONFIG, partition=PARTITION, tags={DATA_VERSION_TAG: artifact.key}
        )
    )
    return recipes / "publish"


def materialize(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    needed = published_model.required_resource_keys
    return dg.materialize(
        [published_model],
        instance=instance,
        partition_key=PARTITION,
        resources={name: value for name, value in resources().items() if name in needed},
        raise_on_error=False,
    )


def recorded(result: dg.ExecuteInProcessResult) -> dg.AssetMaterialization:
    (event,) = result.asset_materializations_for_node("published_model")
    return event


def records(event: dg.AssetMaterialization) -> list[dg.TableRecord]:
    table = event.metadata["targets"]
    assert isinstance(table, dg.TableMetadataValue)
    return list(table.records)


def why(result: dg.ExecuteInProcessResult) -> str:
    (failed,) = result.get_step_failure_events()
    cause = failed.step_failure_data.error.cause
    return cause.message


@pytest.mark.slow
def test_every_target_gets_the_release_once_and_the_asset_links_to_them(
    decided: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for name in ("near", "far"):
        to = f"{(tmp_path / name).as_uri()}"
        (decided / f"{name}.yaml").write_text(f"name: {name}\nto: {to}\n{FOR_ONE}")
    others = "models: [other]\nto: file:///never/written\n"
    (decided / "others.yaml").write_text(f"name: others\n{others}")
    first = recorded(materialize(instance))
    (release,) = {(tmp_path / n / "aliases/current").resolve().name for n in ("near", "far")}
    table = records(first)
    assert [(row.data["target"], row.data["release"]) for row in table] == [
        ("far", release), ("near", release)
    ]  # fmt: skip
    assert first.metadata["at near"].value == f"{(tmp_path / 'near').as_uri()}/releases/{release}"
    assert str(first.metadata["report"].value).endswith("/report.html")
    again = recorded(materialize(instance))
    assert {row.data["sent"] for row in records(again)} == {0}
    # What depends on it is as fresh as it was.
    assert again.tags[DATA_VERSION_TAG] == first.tags[DATA_VERSION_TAG]
    rows = History(settings().history).query("SELECT target, model FROM publications")
    assert sorted(rows["target"]) == ["far", "far", "near", "near"]


@pytest.mark.slow
def test_a_target_that_fails_keeps_no_other_from_its_release(
    decided: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (decided / "away.yaml").write_text(f"name: away\nto: oci://127.0.0.1:9/models/m\n{FOR_ONE}")
    (decided / "broken.yaml").write_text("name: broken\nto: nowhere\n")
    (decided / "mixed.yaml").write_text("name: mixed\nto: s3://bucket/{model}\n")
    to = f"{tmp_path.as_uri()}/near/{{model}}/{{slo}}"
    (decided / "near.yaml").write_text(f"name: near\nto: {to}\n")
    result = materialize(instance)
    assert not result.success
    assert why(result).startswith("optikit_assets.errors.StageError: 1 targets have it, and not ")
    assert "away: oci://127.0.0.1:9/models/m: cannot" in why(result)
    assert "broken.yaml: to: must be one of" in why(result)
    assert "mixed.yaml: alias: is the same for all: put {slo} into it" in why(result)
    assert (tmp_path / "near/tiny/chat/aliases/current").exists()
    assert len(History(settings().history).query("SELECT * FROM publications")) == 1


def test_without_a_target_or_a_decision_it_says_what_is_missing(
    decided: Path, instance: dg.DagsterInstance
) -> None:
    assert "there is no publishing target: write one into" in why(materialize(instance))
    (decided / "near.yaml").write_text("name: near\nto: file:///never/written\n")
    instance.wipe_assets([dg.AssetKey(graph.DEPLOYABLE_CONFIG)])
    assert f"there is no bundle of {MODEL} under SLO {SLO}" in why(materialize(instance))
