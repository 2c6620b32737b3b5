"""Publishing from a real store and a real model folder, into a bucket in memory."""

import errno
import json
import os
import shutil

import obstore
import pytest
import yaml
from obstore.store import MemoryStore

from optikit_assets.artifacts import open_store
from optikit_assets.bucket import Bucket
from optikit_assets.cli.delivery import run_publish
from optikit_assets.engines import get_engine
from optikit_assets.errors import (
    ChangedInputError,
    OptikitError,
    SpecError,
    StorageError,
    UnknownNameError,
)
from optikit_assets.headless import publication
from optikit_assets.headless.bundles import published_uri
from optikit_assets.history import History
from optikit_assets.publishing import ObjectTarget, open_target
from optikit_assets.releases import push
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import digest
from tests.bundles import keep_plain_bundle
from tests.servers.mlflow import Imitation, imitated
from tests.tiny_model import write_model

PLACE = "s3://bucket/models"


@pytest.fixture
def bucket(with_history, tmp_path, monkeypatch):
    """Have a bundle of a baseline, and a target that is a bucket in memory."""
    recipes = tmp_path / "recipes"
    shutil.copytree(REPOSITORY / "recipes", recipes)
    (recipes / "publish").mkdir(exist_ok=True)
    (recipes / "publish" / "bucket.yaml").write_text(f"name: bucket\nto: {PLACE}\n")
    monkeypatch.setenv("OPTIKIT_RECIPES", str(recipes))
    settings.cache_clear()
    found = keep_plain_bundle(tmp_path)
    monkeypatch.setattr(publication, "newest_bundle", lambda model, slo: found)
    memory = MemoryStore()
    bucket = Bucket(PLACE, memory)
    monkeypatch.setattr(
        push,
        "open_target",
        lambda url: ObjectTarget(url, bucket) if url == PLACE else open_target(url),
    )
    return memory


def objects(memory):
    return {
        item["path"]: bytes(obstore.get(memory, item["path"]).bytes())
        for page in obstore.list(memory)
        for item in page
    }


@pytest.mark.slow
def test_weights_and_a_bundle_that_names_them_are_pushed_and_remembered(bucket, capsys, tmp_path):
    run_publish("tiny", "chat", "bucket")
    found = objects(bucket)
    key = json.loads(found["aliases/current.json"])["key"]
    place = f"releases/{key}"
    weights = (tmp_path / "tiny/1/model.safetensors").read_bytes()
    assert found[f"{place}/model/model.safetensors"] == weights
    assert yaml.safe_load(found[f"{place}/bundle/vllm.yaml"])["model"] == "/mnt/models"
    assert f"{PLACE}/{place}/model".encode() in found[f"{place}/bundle/deploy/kubernetes.yaml"]
    assert b"lies in `/mnt/models`, as `vllm.yaml` says" in found[f"{place}/bundle/README.md"]
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


def test_a_checkpoint_is_pushed_with_what_its_maker_wrote_beside_the_weights(
    bucket, tmp_path, monkeypatch
):
    _, deployment = keep_plain_bundle(tmp_path)
    store = open_store(settings().store, settings().home)
    with store.create(digest("checkpoint"), "checkpoint") as draft:
        write_model(draft.path, 1)
        draft.file("recipe.yaml").write_text("scheme: W8A8\n")
    checkpoint = store.get(digest("checkpoint"))
    with store.create(digest("quantized"), "deployable_config") as draft:
        DEPLOYMENT_FILE.write(draft, deployment)
        draft.file("report.html").write_text("<p>proof</p>")
        draft.references[checkpoint.key] = checkpoint.digest
    found = store.get(digest("quantized")), deployment
    monkeypatch.setattr(publication, "newest_bundle", lambda model, slo: found)
    run_publish("tiny", "chat", "bucket")
    sent = {name.partition("/model/")[2]: text for name, text in objects(bucket).items()}
    assert sent["recipe.yaml"] == b"scheme: W8A8\n"
    assert sent["model.safetensors"] == checkpoint.file("model.safetensors").read_bytes()
    assert "manifest.json" not in sent


def test_weights_that_changed_are_not_published(bucket, tmp_path):
    write_model(tmp_path / "tiny" / "1", 2)
    with pytest.raises(ChangedInputError, match="are not those that tiny@1 was certified with"):
        run_publish("tiny", "chat", "bucket")
    assert objects(bucket) == {}


def test_a_file_that_vanishes_is_one_line_so_that_other_targets_get_theirs(bucket, monkeypatch):
    def vanished(self, release, alias):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "model.safetensors")

    monkeypatch.setattr(ObjectTarget, "push", vanished)
    with pytest.raises(StorageError, match=r"cannot push tiny@1 to .*No such file.*model\.safe"):
        run_publish("tiny", "chat", "bucket")


def test_a_target_that_does_not_exist_is_one_line(bucket):
    with pytest.raises(UnknownNameError, match="publishing target 'nowhere'"):
        run_publish("tiny", "chat", "nowhere")


@pytest.mark.slow
def test_a_folder_gets_weights_and_an_alias_and_pods_take_theirs_from_the_claim(bucket, tmp_path):
    place = tmp_path / "share"
    (settings().recipes / "publish" / "share.yaml").write_text(
        f"name: share\nto: {place.as_uri()}\n"
    )
    run_publish("tiny", "chat", "share")
    release = place / "aliases" / "current"
    weights = (tmp_path / "tiny/1/model.safetensors").read_bytes()
    assert (release / "model" / "model.safetensors").read_bytes() == weights
    manifest = (release / "bundle" / "deploy" / "kubernetes.yaml").read_text()
    assert "claimName: models" in manifest
    artifact, _ = publication.newest_bundle("tiny", "chat")
    assert published_uri(artifact.key) is None
    run_publish("tiny", "chat", "bucket")
    run_publish("tiny", "chat", "share")
    assert published_uri(artifact.key).startswith(PLACE)


@pytest.mark.slow
def test_a_tracker_is_told_what_was_certified_and_where_it_lies(bucket, capsys, monkeypatch):
    target = f"name: tracked\nto: {PLACE}\nmlflow: '{{model}}-{{slo}}'\n"
    (settings().recipes / "publish" / "tracked.yaml").write_text(target)
    state = Imitation()
    with imitated(state) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        for _ in range(2):
            run_publish("tiny", "chat", "tracked")
    (version,) = state.versions
    key = json.loads(objects(bucket)["aliases/current.json"])["key"]
    assert (version["name"], version["source"]) == ("tiny-chat", f"{PLACE}/releases/{key}/model")
    assert state.models["tiny-chat"] == {"current": "1"}
    (run,) = state.runs.values()
    deployment = publication.newest_bundle("tiny", "chat")[1]
    assert run["metrics"]["certified_rate_rps"] == deployment.certified_rate_rps
    assert run["metrics"]["gain_low"] == deployment.gain.low
    assert run["params"]["flag.max_num_seqs"] == str(deployment.flags["max_num_seqs"])
    names = {name.partition("/artifacts/")[2] for name in state.files}
    assert names >= {"report.html", "deployment.json", "vllm.yaml", "figures/four_arms.svg"}
    assert f"see {url}/#/experiments/1/runs/run0" in capsys.readouterr().out


@pytest.mark.parametrize("alias", ["latest", "v2", "a.b"])
def test_an_alias_that_mlflow_refuses_is_refused_where_it_stands(bucket, alias):
    text = f"name: bad\nto: {PLACE}\nmlflow: m\nalias: {alias}\n"
    (settings().recipes / "publish" / "bad.yaml").write_text(text)
    with pytest.raises(SpecError, match="neither `latest` nor a version"):
        run_publish("tiny", "chat", "bad")


@pytest.mark.slow
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


@pytest.mark.parametrize("to", ["ftp://a/b", "s3://bucket", "bucket/models", "file://models"])
def test_a_target_file_with_a_place_that_nobody_opens_is_refused(bucket, to):
    (settings().recipes / "publish" / "bad.yaml").write_text(f"name: bad\nto: {to}\n")
    with pytest.raises(SpecError, match=r"recipes/publish/bad\.yaml: to: must be one of az://"):
        run_publish("tiny", "chat", "bad")
