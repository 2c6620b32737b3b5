"""A checkpoint that was really damaged: real workers, real gate, refused as a deployable config."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from optikit_assets import graph
from optikit_assets.artifacts import open_store
from optikit_assets.artifacts.manifest import write_manifest
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.recorded import recorded_of
from optikit_assets.engines import detect
from optikit_assets.environments.status import python_of
from optikit_assets.errors import EnvironmentMissingError
from optikit_assets.execution import get_executor
from optikit_assets.freshness import SourceVersions, Versions
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node, open_instance, register_model
from optikit_assets.settings import REPOSITORY, Settings, settings
from optikit_assets.specs import LOCAL, Catalog

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = "demo-llama@1"
LIMIT = 40
SCALE = "model.layers.1.mlp.down_proj.weight_scale"
# Read before the test gets an OPTIKIT_HOME of its own.
ENVIRONMENTS = Settings().envs_home  # pyright: ignore[reportCallIssue]


@pytest.fixture
def recipes(with_instance: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a recipes folder in which baseline and int_w8a8 are as cheap as can be."""
    try:
        for environment in ("compress", "serve"):
            python_of(ENVIRONMENTS, environment)
    except EnvironmentMissingError as error:
        pytest.skip(str(error))
    shipped, folder = REPOSITORY / "recipes", with_instance / "recipes"
    for name in ("quantization/baseline", "models/demo-llama", "search_spaces/demo"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped / f"{name}.yaml", folder / f"{name}.yaml")
    shutil.copytree(shipped / "evaluations" / "demo", folder / "evaluations" / "demo")

    def write(name: str, **changes: object) -> None:
        spec = {**yaml.safe_load((shipped / name).read_text()), **changes}
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(spec))

    rows = {"samples": 16, "max_sequence_length": 128}
    write("quantization/int_w8a8.yaml", trials=1, calibration=rows)
    suite = yaml.safe_load((shipped / "evaluations" / "demo.yaml").read_text())
    write("evaluations/demo.yaml", tasks=[{**task, "limit": LIMIT} for task in suite["tasks"]])
    # Longer than the model's context: the baseline's sweep ends without a server.
    write("slos/demo.yaml", workload={"input_tokens": 100_000, "output_tokens": 16})
    monkeypatch.setenv("OPTIKIT_RECIPES", str(folder))
    monkeypatch.setenv("OPTIKIT_ENVIRONMENTS_HOME", str(ENVIRONMENTS))
    settings.cache_clear()
    with open_instance() as instance:
        register_model(instance, MODEL)
    return folder


def multiply(file: Path, tensor: str, factor: int) -> None:
    """Multiply one tensor of a safetensors file."""
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    entry = json.loads(content[8:start])[tensor]
    begin, end = (start + offset for offset in entry["data_offsets"])
    if entry["dtype"] == "F32":
        scaled = np.frombuffer(bytes(content[begin:end]), dtype="<f4") * np.float32(factor)
        content[begin:end] = scaled.tobytes()
    else:
        assert entry["dtype"] == "BF16"
        # The upper half of a float32 is a bfloat16.
        values = np.frombuffer(bytes(content[begin:end]), dtype="<u2").astype("<u4") << 16
        scaled = values.view("<f4") * np.float32(factor)
        content[begin:end] = (scaled.view("<u4") >> 16).astype("<u2").tobytes()
    file.write_bytes(content)


def key_of(node: Node) -> str:
    """Return the content key that a node has now."""
    catalog = Catalog.load(settings().recipes)
    registry = ModelRegistry(settings().home, REPOSITORY, catalog)
    store = open_store(settings().store, settings().home)
    here = get_executor(settings(), catalog.pool(LOCAL))
    sources = SourceVersions(
        catalog,
        registry,
        lambda pool: detect(),
        lambda pool, name: here.environment(name),
        lambda pool: here.variables(),
    )
    with open_instance() as instance:
        versions = Versions(
            partial(recorded_of, instance), sources, lambda key: store.find(key) is not None
        )
        return versions.actual(node)[0]


def test_a_damaged_checkpoint_is_refused(recipes: Path) -> None:
    store = open_store(settings().store, settings().home)
    quantized = Node.of(graph.QUANTIZED_MODEL, f"{MODEL}|int_w8a8")
    assert materialize_node(Node.of(graph.BASE_MODEL, MODEL)) == "ok"
    assert materialize_node(quantized) == "ok"
    assert materialize_node(Node.of(graph.QUANTIZED_MODEL, f"{MODEL}|baseline")) == "ok"
    (trial,) = store.get(key_of(quantized)).read_json("quantization.json")["finished"]
    made = store.get(trial["artifact_key"])
    multiply(made.folder() / "model.safetensors", SCALE, 16)
    # Damaged in its making: the store keeps what it was given.
    write_manifest(made.folder(), made.key, made.kind, made.manifest, made.references)

    for recipe in ("int_w8a8", "baseline"):
        assert materialize_node(Node.of(graph.EVAL_SCORES, f"{MODEL}|{recipe}")) == "ok"
    scores = store.get(key_of(Node.of(graph.EVAL_SCORES, f"{MODEL}|int_w8a8")))
    comparison = scores.read_json("comparison.json")
    assert (comparison["verdict"], comparison["accepted"]) == ("fail", False)

    for asset in (graph.BENCHMARK_SWEEP, graph.TUNED_CONFIG):
        assert materialize_node(Node.of(asset, f"{MODEL}|int_w8a8@demo")) == "skipped"
        # Too long a workload for the model, so that minutes of load tests are not run.
        assert materialize_node(Node.of(asset, f"{MODEL}|baseline@demo")) == "infeasible"

    assert materialize_node(Node.of(graph.DEPLOYABLE_CONFIG, f"{MODEL}|demo")) == "infeasible"
    bundle = settings().home / "deployments" / MODEL / "demo"
    deployment = json.loads((bundle / "deployment.json").read_text())
    refusals = {item["recipe"]: item["reason"] for item in deployment["rejections"]}
    assert refusals["int_w8a8"].startswith("quality gate: refused: shown to lose more than")
    assert not (bundle / "vllm.yaml").exists()
    ledger = (settings().home / "logs" / "workers.jsonl").read_text().splitlines()
    assert [json.loads(line)["worker"] for line in ledger] == ["compress", "evaluate"]
