"""Publishing from a real store and a real model folder, into a bucket in memory."""

import json
import shutil

import obstore
import pytest
import yaml
from obstore.store import MemoryStore

from optikit_assets.artifacts import open_store
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.bucket import Bucket
from optikit_assets.cli.delivery import run_publish
from optikit_assets.engines import get_engine
from optikit_assets.errors import ChangedInputError, OptikitError, SpecError, UnknownNameError
from optikit_assets.headless import publication
from optikit_assets.history import History
from optikit_assets.publishing import ObjectTarget
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog, digest
from tests.tiny_model import write_model
from tests.unit.deployment import samples

PLACE = "s3://bucket/models"


@pytest.fixture
def bucket(home, tmp_path, monkeypatch):
    """Have a bundle of a baseline, and a target that is a bucket in memory."""
    recipes = tmp_path / "recipes"
    shutil.copytree(REPOSITORY / "recipes", recipes)
    (recipes / "publish").mkdir(exist_ok=True)
    (recipes / "publish" / "bucket.yaml").write_text(f"name: bucket\nto: {PLACE}\n")
    monkeypatch.setenv("OPTIKIT_RECIPES", str(recipes))
    settings.cache_clear()
    registry = ModelRegistry(home, REPOSITORY, Catalog.load(recipes))
    model = registry.fetch(registry.add(str(write_model(tmp_path / "tiny" / "1", 1))))
    deployment = samples.deployment().model_copy(
        update={
            "model": "tiny", "model_version": "1", "recipe": "baseline", "tuned": False,
            "checkpoint_digest": model.digest, "checkpoint_path": str(model.path),
        }
    )  # fmt: skip
    store = open_store(settings().store, home)
    with store.create(digest("bundle"), "deployable_config") as draft:
        DEPLOYMENT_FILE.write(draft, deployment)
        draft.file("report.html").write_text("<p>proof</p>")
    found = (store.get(digest("bundle")), deployment)
    monkeypatch.setattr(publication, "newest_bundle", lambda model, slo: found)
    memory = MemoryStore()
    bucket = Bucket(PLACE, memory)
    monkeypatch.setattr(publication, "open_target", lambda url: ObjectTarget(url, bucket))
    return memory


def objects(memory):
    return {
        item["path"]: bytes(obstore.get(memory, item["path"]).bytes())
        for page in obstore.list(memory)
        for item in page
    }


def test_weights_and_a_bundle_that_names_them_are_pushed_and_remembered(bucket, capsys, tmp_path):
    run_publish("tiny", "chat", "bucket")
    found = objects(bucket)
    key = json.loads(found["aliases/current.json"])["key"]
    place = f"releases/{key}"
    weights = (tmp_path / "tiny/1/model.safetensors").read_bytes()
    assert found[f"{place}/model/model.safetensors"] == weights
    assert yaml.safe_load(found[f"{place}/bundle/vllm.yaml"])["model"] == "/mnt/models"
    assert f"{PLACE}/{place}/model".encode() in found[f"{place}/bundle/deploy/kubernetes.yaml"]
    assert found[f"{place}/bundle/report.html"] == b"<p>proof</p>"
    told = json.loads(found[f"{place}/release.json"])["files"]
    assert set(told) == {n.removeprefix(f"{place}/") for n in found if place in n} - {
        "release.json", "begun"
    }  # fmt: skip
    assert "alias current" in capsys.readouterr().out
    run_publish("tiny", "chat", "bucket")
    assert "it was there already" in capsys.readouterr().out
    rows = History(settings().history).query("SELECT release, sent > 0 AS new FROM publications")
    assert rows["release"].tolist() == [key, key]
    assert rows["new"].tolist() == [True, False]


def test_weights_that_changed_are_not_published(bucket, tmp_path):
    write_model(tmp_path / "tiny" / "1", 2)
    with pytest.raises(ChangedInputError, match="not known to be those that tiny@1 was certified"):
        run_publish("tiny", "chat", "bucket")
    assert objects(bucket) == {}


def test_a_target_that_does_not_exist_is_one_line(bucket):
    with pytest.raises(UnknownNameError, match="publishing target 'nowhere'"):
        run_publish("tiny", "chat", "nowhere")


def test_an_engine_without_an_image_has_its_file_in_the_bundle_too(bucket, monkeypatch):
    artifact, deployment = publication.newest_bundle("tiny", "chat")
    other = deployment.model_copy(update={"engine": "transformers", "flags": {}})
    monkeypatch.setattr(publication, "newest_bundle", lambda model, slo: (artifact, other))
    run_publish("tiny", "chat", "bucket")
    name = f"bundle/{get_engine('transformers').config_file}"
    (text,) = (content for place, content in objects(bucket).items() if place.endswith(name))
    assert b"/mnt/models" in text


def test_a_push_that_nobody_can_be_named_for_sends_nothing(bucket, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: {}["pw_name"])
    with pytest.raises(OptikitError, match="set the variable USER"):
        run_publish("tiny", "chat", "bucket")
    assert objects(bucket) == {}


def test_a_target_file_with_credentials_is_refused_without_showing_them(bucket):
    to = "oci://me:secret@registry.example.com/models/m"
    (settings().recipes / "publish" / "bad.yaml").write_text(f"name: bad\nto: {to}\n")
    with pytest.raises(SpecError, match="must not have credentials") as refused:
        run_publish("tiny", "chat", "bad")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("to", ["ftp://a/b", "s3://bucket", "bucket/models"])
def test_a_target_file_with_a_place_that_nobody_opens_is_refused(bucket, to):
    (settings().recipes / "publish" / "bad.yaml").write_text(f"name: bad\nto: {to}\n")
    with pytest.raises(SpecError, match=r"recipes/publish/bad\.yaml: to: must be one of az://"):
        run_publish("tiny", "chat", "bad")
