"""The graph as Dagster sees it: assets, partitions, lineage, sensors."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from optikit_assets import graph
from optikit_assets.definitions import defs
from optikit_assets.defs import partitions
from optikit_assets.defs.assets import ASSETS
from optikit_assets.defs.sensors import new_model_versions, spec_changes
from optikit_assets.graph import PIPELINE, Node, upstream
from optikit_assets.headless.job import optimize_model
from optikit_assets.settings import REPOSITORY, settings
from resources import ArtifactStoreResource, ModelRegistryResource, StageRunnerResource
from tests.definitions.world import HARDWARE, local_on, pools_of
from tests.executors import execute_with
from tests.tiny_model import write_model

MODEL = "m@1"
SLO = partitions.SLOS[0]
SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
OF_MODEL, OF_RECIPE, OF_SCENARIO = ("model",), ("model", "recipe"), ("model", "scenario")
MEASURED_WITH = {"eval_scores", "scenario_spec", "engine_spec", "serving_runtime"}
# Asset -> its dimensions, what it depends on, and its code version.
SNAPSHOT: dict[str, tuple[tuple[str, ...], set[str], str | None]] = {
    "base_model": (OF_MODEL, set(), "1"),
    "quantized_model": (
        OF_RECIPE,
        {"base_model", "recipe_spec", "engine_support", "calibration_data", "compress_runtime"},
        "2",
    ),
    "eval_scores": (
        OF_RECIPE,
        {"base_model", "quantized_model", "evaluation_spec", "engine_spec", "serving_runtime"},
        "3",
    ),
    "benchmark_sweep": (OF_SCENARIO, {"quantized_model", *MEASURED_WITH}, "4"),
    "tuned_config": (
        OF_SCENARIO,
        {"benchmark_sweep", "search_space_spec", *MEASURED_WITH},
        "5",
    ),
    "deployable_config": (
        ("model", "slo"),
        {"base_model", "eval_scores", "benchmark_sweep", "tuned_config", "certification_spec"},
        "6",
    ),
    "recipe_spec": (("recipe",), set(), None),
    "scenario_spec": (("scenario",), set(), None),
    "search_space_spec": (("scenario",), set(), None),
    "certification_spec": (("slo",), set(), None),
    "evaluation_spec": (OF_MODEL, set(), None),
    "engine_spec": (OF_MODEL, set(), None),
    "engine_support": (OF_RECIPE, set(), None),
    "calibration_data": (OF_RECIPE, set(), None),
    "compress_runtime": ((), set(), None),
    "serving_runtime": ((), set(), None),
}
ON_REQUEST = ("published_model", "recertified_config")
PACKAGES = {
    "quantized_model": "quantization",
    "eval_scores": "evaluation",
    "benchmark_sweep": "benchmarking",
    "tuned_config": "tuning",
    "deployable_config": "deployment",
}
SCENARIOS = [f"{recipe}@{slo}" for recipe in partitions.RECIPES for slo in partitions.SLOS]
DIMENSIONS: dict[str, dg.PartitionsDefinition] = {
    "model": dg.DynamicPartitionsDefinition(name="models"),
    "recipe": dg.StaticPartitionsDefinition(partitions.RECIPES),
    "slo": dg.StaticPartitionsDefinition(partitions.SLOS),
    "scenario": dg.StaticPartitionsDefinition(SCENARIOS),
}


def partitioned_by(names: tuple[str, ...]) -> dg.PartitionsDefinition | None:
    if len(names) > 1:
        return dg.MultiPartitionsDefinition({name: DIMENSIONS[name] for name in names})
    return DIMENSIONS[names[0]] if names else None


# --- assets -------------------------------------------------------------------------------------


def test_definitions_load_and_fit_together():
    dg.Definitions.validate_loadable(defs)
    needed = {key for asset in ASSETS for key in asset.required_resource_keys}
    # Dagster brings its own io_manager.
    assert needed - {"io_manager"} <= set(defs.resources or ())
    assert "runner" in needed
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="resource with key"):
        dg.Definitions.validate_loadable(dg.Definitions(assets=ASSETS))


def test_every_stage_asset_says_in_which_file_it_is():
    for name in graph.STAGES:
        references = SPECS[name].metadata["dagster/code_references"].code_references
        files = [Path(reference.file_path).relative_to(REPOSITORY) for reference in references]
        assert files == [Path("optikit_assets", "defs", PACKAGES.get(name, ""), f"{name}.py")]


def test_the_assets_are_the_stages_and_the_sources():
    # Nothing says here what cards cost.
    assert set(SNAPSHOT) == {*graph.STAGES, *graph.OBSERVED} - {"pool_spec"}
    assert set(SPECS) - set(SNAPSHOT) == set(ON_REQUEST)
    assert {SPECS[name].group_name for name in graph.STAGES} == {"optimization"}
    assert {SPECS[name].group_name for name in partitions.SOURCES} == {"sources"}


@pytest.mark.parametrize("name", ON_REQUEST)
def test_what_becomes_of_a_decision_hangs_on_it_and_is_made_on_request_alone(name):
    spec = SPECS[name]
    assert spec.partitions_def == partitioned_by(("model", "slo"))
    assert [dep.asset_key.to_user_string() for dep in spec.deps] == ["deployable_config"]
    assert (spec.group_name, spec.owners) == ("delivery", ["team:ml-platform"])
    assert spec.automation_condition is None
    assert not any(name in job.name for job in defs.resolve_all_job_defs())


@pytest.mark.parametrize("name", SNAPSHOT)
def test_every_asset_has_its_partitions_and_dependencies_and_says_what_it_is(name):
    spec = SPECS[name]
    dimensions, needs, code_version = SNAPSHOT[name]
    assert spec.partitions_def == partitioned_by(dimensions)
    assert {dep.asset_key.to_user_string() for dep in spec.deps} == needs
    assert spec.code_version == code_version
    assert spec.description
    assert len(spec.description) > 30


@pytest.mark.parametrize("name", graph.STAGES)
def test_every_stage_has_kinds_an_owner_and_a_code_version(name):
    spec = SPECS[name]
    assert spec.kinds
    assert spec.owners == ["team:ml-platform"]
    # The sensor for edits plans as the status does; two would request twice.
    assert spec.automation_condition is None
    assert ("gpu" in spec.kinds) == (name != "base_model")


def test_the_quality_gate_and_every_task_are_partitioned_checks_of_the_scores():
    graph = defs.resolve_asset_graph()
    of_scores = [k for k in graph.asset_check_keys if k.asset_key == dg.AssetKey("eval_scores")]
    assert {(key.asset_key.to_user_string(), key.name) for key in of_scores} == {
        ("eval_scores", "quality_gate"),
        *(
            ("eval_scores", f"recovery_{task}")
            for task in (
                "reasoning",
                "instructions",
                "safety",
                "gsm8k",
                "ifeval",
                "do_not_answer",
            )
        ),
    }
    for key in of_scores:
        assert graph.get(key).partitions_def == partitioned_by(OF_RECIPE)


def test_new_model_versions_are_requested_unless_switched_off_and_edits_if_switched_on():
    repository = defs.get_repository_def()
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "new_model_versions",
        "spec_changes",
        "stale_partitions",
        "engine_upgrades",
    }
    assert {sensor.name for sensor in repository.sensor_defs if is_on(sensor)} == {
        "new_model_versions",
        "spec_changes",
        "engine_upgrades",
    }


def is_on(sensor: dg.SensorDefinition) -> bool:
    return sensor.default_status == dg.DefaultSensorStatus.RUNNING


# --- partitions and lineage ---------------------------------------------------------------------


def parents(node: Node, instance: dg.DagsterInstance) -> set[Node]:
    """Ask Dagster which partitions a partition depends on."""
    from dagster._core.definitions.partitions.context import partition_loading_context

    with partition_loading_context(dynamic_partitions_store=instance):
        found = defs.resolve_asset_graph().get_parents_partitions(
            dg.AssetKey(node.asset), node.partition
        )
    assert not found.required_but_nonexistent_parents_partitions
    return {Node.of(p.asset_key.to_user_string(), p.partition_key) for p in found.parent_partitions}


@pytest.fixture
def registered(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    instance.add_dynamic_partitions(partitions.MODEL_DIMENSION, [MODEL, "other@1"])
    return instance


@pytest.mark.slow
def test_scores_come_from_their_own_recipe_and_model(registered):
    assert parents(Node.of("eval_scores", "m@1|int_w8a8"), registered) == {
        Node.of("base_model", "m@1"),
        Node.of("quantized_model", "m@1|int_w8a8"),
        Node.of("evaluation_spec", "m@1"),
        Node.of("engine_spec", "m@1"),
        Node.of("serving_runtime"),
    }


def test_a_sweep_depends_on_its_recipe_and_on_its_scenario(registered):
    assert parents(Node.of("benchmark_sweep", f"m@1|int_w8a8@{SLO}"), registered) == {
        Node.of("quantized_model", "m@1|int_w8a8"),
        Node.of("eval_scores", "m@1|int_w8a8"),
        Node.of("scenario_spec", f"int_w8a8@{SLO}"),
        Node.of("engine_spec", "m@1"),
        Node.of("serving_runtime"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("asset", SNAPSHOT)
def test_dagster_and_the_table_agree_on_every_edge(asset, registered):
    nodes = partitions.all_nodes(asset, [MODEL, "other@1"])
    definition = SPECS[asset].partitions_def
    if definition is not None:
        keys = definition.get_partition_keys(dynamic_partitions_store=registered)
        assert {node.partition for node in nodes} == set(keys)
    for node in nodes:
        above = {up for up in upstream(node, partitions.RECIPES) if up.asset in SPECS}
        assert parents(node, registered) == above, str(node)


def test_no_edge_has_so_many_partitions_that_dagster_stops_looking(registered):
    # From 100 upstream partitions on Dagster calls an edge fresh for ever.
    for node in PIPELINE.nodes(MODEL, [SLO], partitions.RECIPES):
        found = [parent.asset for parent in parents(node, registered)]
        assert max((found.count(asset) for asset in found), default=0) < 100


def test_partition_keys_name_the_model_first():
    key = dg.MultiPartitionKey({"scenario": "int_w8a8@demo", "model": MODEL})
    assert key == f"{MODEL}|int_w8a8@demo"
    node = Node("benchmark_sweep", graph.Key(MODEL, "int_w8a8", "demo"))
    assert partitions.multi_partition_key(node) == key


@pytest.mark.parametrize("key", ["m", "m@", "@1", "a|b@1", "m@1,2", "m@1@2", "m@..."])
def test_a_key_that_dagster_would_lose_is_refused(key):
    with pytest.raises(ValueError, match=r"may not (contain|be empty)"):
        graph.split_model(key)


# --- sensors ------------------------------------------------------------------------------------


class Site:
    """A home and an editable copy of the repository's spec files, with sensors over them."""

    def __init__(self, root: Path, home: Path, instance: dg.DagsterInstance) -> None:
        self.home = home
        self.recipes = root / "recipes"
        self.instance = instance
        self.cursors: dict[str, str | None] = {}
        self.requests: dict[str, dg.RunRequest] = {}
        shutil.copytree(REPOSITORY / "recipes", self.recipes)
        # The demo model is a file of the repository, and no new version.
        self.models = ModelRegistryResource(home=str(home), recipes=str(self.recipes))
        known = [v.key for v in self.models.registry(self.models.catalog()).versions()]
        instance.add_dynamic_partitions(partitions.MODEL_DIMENSION, known)

    def drop(self, name: str, version: str) -> None:
        write_model(self.home / "models" / name / version)

    def tick(self, sensor: dg.SensorDefinition) -> dg.SensorResult | dg.SkipReason:
        runner = StageRunnerResource.over(lambda: pools_of(HARDWARE))
        artifacts = ArtifactStoreResource(url=settings().store, home=str(self.home))
        wanted = {"models": self.models, "artifacts": artifacts, "runner": runner}
        resources = {k: v for k, v in wanted.items() if k in sensor.required_resource_keys}
        with dg.build_sensor_context(
            instance=self.instance, resources=resources, cursor=self.cursors.get(sensor.name)
        ) as context:
            result = sensor(context)
        assert isinstance(result, dg.SensorResult | dg.SkipReason)
        if isinstance(result, dg.SensorResult):
            self.cursors[sensor.name] = result.cursor
        return result

    def requested(self) -> list[str]:
        """Tick, and return the model versions whose graphs were requested."""
        result = self.look_for_models()
        if isinstance(result, dg.SkipReason):
            return []
        self.requests |= {r.tags["optikit/model"]: r for r in result.run_requests or ()}
        return [request.tags["optikit/model"] for request in result.run_requests or ()]

    def reason(self) -> str:
        """Tick, and return why nothing was requested."""
        return self.message(new_model_versions)

    def message(self, sensor: dg.SensorDefinition) -> str:
        """Tick, and return what the sensor says."""
        result = self.tick(sensor)
        found = result.skip_reason if isinstance(result, dg.SensorResult) else result
        assert found is not None
        return str(found.skip_message)

    def execute(self, key: str) -> bool:
        """Run what was requested last for a model version; return whether it succeeded."""
        request = self.requests[key]
        return optimize_model.execute_in_process(
            run_config=request.run_config,
            tags=request.tags,
            instance=self.instance,
            raise_on_error=False,
        ).success

    def look_for_models(self) -> dg.SensorResult | dg.SkipReason:
        """Tick, and add the partitions that were asked for, as the daemon does."""
        result = self.tick(new_model_versions)
        if isinstance(result, dg.SensorResult):
            for request in result.dynamic_partitions_requests or ():
                self.instance.add_dynamic_partitions(
                    request.partitions_def_name, list(request.partition_keys)
                )
        return result

    def look_for_edits(self) -> set[tuple[str, str | None]]:
        """Tick, record the observations, and return of what they were."""
        result = self.tick(spec_changes)
        assert isinstance(result, dg.SensorResult)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        return {
            (event.asset_key.to_user_string(), event.partition)
            for event in result.asset_events
            if isinstance(event, dg.AssetObservation)
        }

    def edit(self, name: str, change: Callable[[dict[str, Any]], object], comment: str) -> None:
        file = self.recipes / name
        spec = yaml.safe_load(file.read_text())
        change(spec)
        file.write_text(f"# {comment}\n{yaml.safe_dump(spec)}")


@pytest.fixture
def site(
    tmp_path: Path, home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Site:
    execute_with(monkeypatch, local_on(HARDWARE))
    monkeypatch.setenv("OPTIKIT_MODEL_QUIET_S", "0")
    settings.cache_clear()
    site = Site(tmp_path, home, instance)
    site.look_for_models()
    return site


def test_what_was_there_before_the_first_tick_becomes_partitions_and_no_request(site: Site):
    site.drop("early", "1")
    (site.home / "models" / "half" / "1").mkdir(parents=True)
    site.cursors.clear()
    result = site.look_for_models()
    assert isinstance(result, dg.SensorResult)
    assert not result.run_requests
    assert "early@1" in str(result.skip_reason)
    assert site.requested() == []
    # What was still being copied then is new when it has arrived.
    site.drop("half", "1")
    assert site.requested() == ["half@1"]


def test_a_source_that_was_away_at_the_first_tick_has_nothing_new_when_it_is_back(site: Site):
    good = (site.recipes / "models" / "demo-llama.yaml").read_text()
    site.drop("demo-llama", "2")
    mounted = site.home / "mounted"
    model = {"name": "far", "source": str(mounted)}
    (site.recipes / "models" / "far.yaml").write_text(yaml.safe_dump(model))
    site.edit("models/demo-llama.yaml", lambda spec: spec.update(suite=7), "typo")
    site.cursors.clear()
    site.look_for_models()
    # One after the other comes back; meanwhile what is new is requested.
    site.drop("other", "1")
    assert site.requested() == ["other@1"]
    write_model(mounted / "1")
    for _ in range(2):
        assert site.requested() == []
    (site.recipes / "models" / "demo-llama.yaml").write_text(good)
    for _ in range(2):
        assert site.requested() == []
    known = site.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    assert {"far@1", "demo-llama@2"} <= set(known)
    # From then on it has news like any other.
    write_model(mounted / "2")
    assert site.requested() == ["far@2"]


@pytest.mark.parametrize("cursor", [{}, {"requested": {}, "owed": {}}])
def test_what_an_earlier_release_kept_is_read(site: Site, cursor: dict[str, Any]):
    site.cursors["new_model_versions"] = json.dumps(cursor)
    site.drop("other", "1")
    assert site.requested() == ["other@1"]


def test_a_broken_slo_is_requested_of_a_new_model_once_it_was_corrected(site: Site):
    good = (site.recipes / "slos" / "demo.yaml").read_text()
    site.edit("slos/demo.yaml", lambda spec: spec["workload"].update(output_tokens=0), "typo")
    site.drop("demo-llama", "2")
    assert "recipes/slos/demo.yaml: workload.output_tokens: " in site.reason()
    site.edit("models/demo-llama.yaml", lambda spec: spec["slos"].append("qwen7b_chat"), "two")
    assert site.requested() == ["demo-llama@2"]
    asked = site.requests["demo-llama@2"].run_config["ops"]["optimize"]["config"]["slos"]
    assert asked == ["qwen7b_chat"]
    assert site.requested() == []
    (site.recipes / "slos" / "demo.yaml").write_text(good)
    assert site.requested() == ["demo-llama@2"]
    asked = site.requests["demo-llama@2"].run_config["ops"]["optimize"]["config"]["slos"]
    assert asked == ["demo"]
    assert site.requested() == []


def test_a_version_of_a_broken_model_spec_waits_and_says_why(site: Site):
    good = (site.recipes / "models" / "demo-llama.yaml").read_text()
    site.edit("models/demo-llama.yaml", lambda spec: spec.update(suite=7), "typo")
    site.drop("demo-llama", "2")
    site.drop("other", "1")
    assert site.requested() == ["other@1"]
    assert "demo-llama@2: recipes/models/demo-llama.yaml: suite: " in site.reason()
    (site.recipes / "models" / "demo-llama.yaml").write_text(good)
    assert site.requested() == ["demo-llama@2"]


def test_a_version_of_a_model_that_names_a_broken_recipe_waits_and_says_why(site: Site):
    good = (site.recipes / "quantization" / "int_w8a8.yaml").read_text()
    site.edit("quantization/int_w8a8.yaml", lambda spec: spec.update(trials=0), "typo")
    site.edit("models/demo-llama.yaml", lambda spec: spec.update(recipes=["int_w8a8"]), "one")
    site.drop("demo-llama", "2")
    assert "demo-llama@2: recipes/quantization/int_w8a8.yaml: trials: " in site.reason()
    assert site.requested() == []
    (site.recipes / "quantization" / "int_w8a8.yaml").write_text(good)
    assert site.requested() == ["demo-llama@2"]


def test_a_version_that_goes_before_it_could_be_requested_stops_no_other(site: Site):
    site.edit("slos/demo.yaml", lambda spec: spec["workload"].update(output_tokens=0), "typo")
    site.drop("demo-llama", "2")
    site.drop("other", "1")
    # Of the one no SLO can be used, the other is requested: what was seen is kept.
    assert site.requested() == ["other@1"]
    shutil.rmtree(site.home / "models" / "demo-llama" / "2")
    site.drop("other", "2")
    assert site.requested() == ["other@2"]


def test_an_owed_slo_does_not_take_the_place_of_a_request_that_failed(site: Site):
    good = (site.recipes / "slos" / "demo.yaml").read_text()
    site.edit("models/demo-llama.yaml", lambda spec: spec["slos"].append("qwen7b_chat"), "two")
    site.edit("slos/demo.yaml", lambda spec: spec["workload"].update(output_tokens=0), "typo")
    site.drop("demo-llama", "2")
    assert site.requested() == ["demo-llama@2"]
    request = site.requests["demo-llama@2"]
    site.instance.create_run_for_job(
        optimize_model,
        run_config=request.run_config,
        tags=dict(request.tags),
        status=dg.DagsterRunStatus.FAILURE,
    )
    # Both at once: the folder is mended, and so is the file.
    (site.recipes / "slos" / "demo.yaml").write_text(good)
    write_model(site.home / "models" / "demo-llama" / "2", fill=3)
    assert site.requested() == ["demo-llama@2"]
    asked = site.requests["demo-llama@2"].run_config["ops"]["optimize"]["config"]["slos"]
    assert asked == ["demo", "qwen7b_chat"]
    assert site.requested() == []


@pytest.mark.slow
def test_broken_files_are_shown_as_failed_checks_and_all_else_is_observed(site: Site):
    site.look_for_edits()
    site.edit("quantization/int_w8a8.yaml", lambda spec: spec.update(trials=0), "typo")
    site.edit("quantization/int_w4a16.yaml", lambda spec: spec.update(trials=7), "no typo")
    result = site.tick(spec_changes)
    assert isinstance(result, dg.SensorResult)
    checks = [e for e in result.asset_events if isinstance(e, dg.AssetCheckEvaluation)]
    fault = "recipes/quantization/int_w8a8.yaml: trials: input should be greater than or equal to 1"
    assert {e.asset_key.to_user_string(): e.passed for e in checks} == {
        "recipe_spec": False,
        "scenario_spec": True,
        "evaluation_spec": True,
        "engine_spec": False,
    }
    assert fault in str(checks[0].description)
    assert fault in str(result.skip_reason)
    seen = [e.partition for e in result.asset_events if isinstance(e, dg.AssetObservation)]
    assert seen == ["int_w4a16"]


def test_a_recipe_file_that_came_has_the_code_location_reloaded(site: Site):
    text = (site.recipes / "quantization" / "int_w8a8.yaml").read_text()
    new = site.recipes / "quantization" / "int_w8a8_2.yaml"
    new.write_text(text.replace("name: int_w8a8", "name: int_w8a8_2"))
    # Without a code server nobody can be asked; once is enough.
    assert "spec files came or went: reload the code location" in site.message(spec_changes)
    assert "came or went" not in site.message(spec_changes)


def test_a_new_model_version_becomes_a_partition_and_a_request(site: Site):
    assert isinstance(site.look_for_models(), dg.SkipReason)
    site.drop("demo-llama", "2")
    result = site.look_for_models()
    assert isinstance(result, dg.SensorResult)
    assert "demo-llama@2" in site.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    (request,) = list(result.run_requests or [])
    assert str(request.run_key).startswith("new-model-demo-llama@2-")
    # The SLOs that recipes/models/demo-llama.yaml names.
    assert request.run_config == {
        "ops": {
            "optimize": {
                "config": {
                    "model": "demo-llama@2",
                    "flow": "quantize_and_tune",
                    "slos": ["demo"],
                    "recipes": ["baseline", "int_w8a8"],
                }
            }
        }
    }
    second = site.look_for_models()
    assert isinstance(second, dg.SkipReason)
    assert second.skip_message == "no new model version"


def test_a_model_without_a_spec_is_requested_for_all_slos(site: Site):
    site.drop("llama", "2024.11")
    site.drop("qwen", "1")
    result = site.look_for_models()
    assert isinstance(result, dg.SensorResult)
    configs = [
        request.run_config["ops"]["optimize"]["config"] for request in result.run_requests or ()
    ]
    assert configs == [
        {"model": key, "flow": "quantize_and_tune", "slos": partitions.SLOS}
        for key in ("llama@2024.11", "qwen@1")
    ]


def test_a_model_is_requested_with_the_flow_that_its_spec_names(site: Site):
    site.edit("models/demo-llama.yaml", lambda spec: spec.update(flow="quantize"), "no load")
    site.drop("demo-llama", "2")
    result = site.look_for_models()
    assert isinstance(result, dg.SensorResult)
    (request,) = list(result.run_requests or [])
    config = request.run_config["ops"]["optimize"]["config"]
    # Under an SLO it measures nothing.
    recipes = ["baseline", "int_w8a8"]
    assert config == {
        "model": "demo-llama@2",
        "flow": "quantize",
        "slos": [],
        "recipes": recipes,
    }


def test_the_launchpad_refuses_a_flow_that_there_is_not(site: Site):
    found = optimize_model.execute_in_process(
        run_config={"ops": {"optimize": {"config": {"model": "demo-llama", "flow": "fast"}}}},
        instance=site.instance,
        raise_on_error=False,
    )
    assert not found.success
    (failure,) = (event for event in found.all_events if event.is_step_failure)
    assert "unknown flow 'fast'; known: benchmark_only, " in str(failure.step_failure_data.error)


@pytest.mark.parametrize(
    ("name", "version"), [("a|b", "1"), ("a", "1|2"), ("a b", "1"), ("a", "1,2")]
)
def test_a_name_that_cannot_be_a_partition_key_never_becomes_one(site: Site, name, version):
    site.drop(name, version)
    before = site.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION)
    assert isinstance(site.look_for_models(), dg.SkipReason)
    assert site.instance.get_dynamic_partitions(partitions.MODEL_DIMENSION) == before


def test_a_folder_that_is_still_copied_is_no_version_until_it_is_whole_and_quiet(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    folder = site.home / "models" / "slow-copy" / "1"
    whole = write_model(site.home / "source", columns=64)
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy2(whole / name, folder / name)
    assert "slow-copy@1" in site.reason(), "no weights yet"
    # Half of the weights under their name, then all of them under another.
    weights = (whole / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "model.safetensors is truncated" in site.reason()
    (folder / "model.safetensors").unlink()
    for partial in ("model.safetensors.part", ".model.safetensors.Xy12Za", "x.incomplete"):
        (folder / "model.safetensors").write_bytes(weights)
        (folder / partial).write_bytes(weights[:100])
        assert f"{partial} is a file that somebody is still writing" in site.reason()
        (folder / partial).unlink()

    # A copy that keeps the times of its source is young all the same.
    os.utime(folder / "model.safetensors", (1_000_000_000, 1_000_000_000))
    monkeypatch.setenv("OPTIKIT_MODEL_QUIET_S", "3600")
    settings.cache_clear()
    assert "it changed a moment ago" in site.reason()
    monkeypatch.setenv("OPTIKIT_MODEL_QUIET_S", "0")
    settings.cache_clear()
    assert site.requested() == ["slow-copy@1"]
    assert site.requested() == []


def test_a_failed_request_is_made_again_when_its_folder_changed(site: Site):
    site.drop("broken", "1")
    assert site.requested() == ["broken@1"]
    tokenizer = site.home / "models" / "broken" / "1" / "tokenizer.json"
    tokenizer.unlink()
    # Nothing is known of the run yet.
    assert site.requested() == []
    assert site.execute("broken@1") is False
    assert "broken@1" in site.reason(), "it has no tokenizer"

    tokenizer.write_text("{ }")
    assert site.requested() == ["broken@1"]
    # That request failed too, and nothing changed since.
    tokenizer.rename(tokenizer.with_name("aside"))
    assert site.execute("broken@1") is False
    tokenizer.with_name("aside").rename(tokenizer)
    assert site.requested() == []
    assert site.requested() == []
    tokenizer.write_text("{  }")
    assert site.requested() == ["broken@1"]


def test_a_version_that_somebody_asked_for_by_hand_is_not_requested(site: Site):
    site.drop("by-hand", "1")
    site.instance.add_dynamic_partitions(partitions.MODEL_DIMENSION, ["by-hand@1"])
    assert site.requested() == []


def test_an_empty_folder_is_not_a_model_version_yet(site: Site):
    (site.home / "models" / "slow-copy" / "1").mkdir(parents=True)
    assert isinstance(site.look_for_models(), dg.SkipReason)


@pytest.mark.slow
def test_every_source_is_observed_once(site: Site):
    everything = site.look_for_edits()
    assert ("serving_runtime", None) in everything
    assert ("recipe_spec", "int_w8a8") in everything
    assert ("scenario_spec", "int_w8a8@demo") in everything
    assert ("search_space_spec", "int_w8a8@demo") in everything
    assert ("certification_spec", "demo") in everything
    assert ("evaluation_spec", "demo-llama@1") in everything
    assert ("engine_spec", "demo-llama@1") in everything
    scenarios = len(partitions.RECIPES) * len(partitions.SLOS)
    of_slos = 2 * scenarios + len(partitions.SLOS)
    assert len(everything) == 2 + 3 * len(partitions.RECIPES) + of_slos + 2
    assert site.look_for_edits() == set()


@pytest.mark.slow
def test_an_edited_value_is_observed_where_it_counts_and_a_comment_is_not(site: Site):
    site.look_for_edits()
    recipe, slo, model = "quantization/int_w8a8.yaml", "slos/demo.yaml", "models/demo-llama.yaml"
    for file in (recipe, slo, model):
        site.edit(file, lambda spec: None, "the same values, otherwise written")
    assert site.look_for_edits() == set()
    site.edit(recipe, lambda spec: spec["calibration"].update(samples=17), "fewer samples")
    assert site.look_for_edits() == {("recipe_spec", "int_w8a8")}
    site.edit(slo, lambda spec: spec["workload"].update(output_tokens=17), "longer answers")
    assert site.look_for_edits() == {
        ("scenario_spec", f"{recipe}@demo") for recipe in partitions.RECIPES
    }
    space = "search_spaces/demo.yaml"
    site.edit(space, lambda spec: spec.update(timeout_minutes=77), "a longer study")
    assert site.look_for_edits() == {
        ("search_space_spec", f"{recipe}@demo") for recipe in partitions.RECIPES
    }
    rounds = {"certification": {"max_rounds": 9}}
    site.edit(slo, lambda spec: spec.setdefault("budget", {}).update(rounds), "more rounds")
    assert site.look_for_edits() == {("certification_spec", "demo")}
    site.edit(model, lambda spec: spec["engine"].update(start_timeout_s=77), "more patience")
    assert site.look_for_edits() == set()
    site.edit(model, lambda spec: spec["engine"].update(dtype="float32"), "another type")
    assert site.look_for_edits() == {("engine_spec", "demo-llama@1")}
    assert site.look_for_edits() == set()


@pytest.mark.slow
def test_a_model_that_was_removed_is_not_observed(site: Site):
    site.instance.add_dynamic_partitions(partitions.MODEL_DIMENSION, ["gone@1"])
    assert not any(partition == "gone@1" for _, partition in site.look_for_edits())


def test_assets_are_listed_once():
    keys = [
        key
        for asset in ASSETS
        for key in (asset.keys if isinstance(asset, dg.AssetsDefinition) else [asset.key])
    ]
    assert len(keys) == len(set(keys)) == len(SNAPSHOT)
