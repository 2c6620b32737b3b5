"""A channel's link where several machines share a bucket: the model is named by content there."""

import errno
import json
import os

import pytest
import yaml
from obstore.store import MemoryStore

from optikit_assets import releases
from optikit_assets.artifacts import LocalStore, ObjectStore, Reference
from optikit_assets.artifacts.cache import ArtifactCache
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.bucket import Bucket
from optikit_assets.engines import get_engine
from optikit_assets.errors import StorageError
from optikit_assets.headless import channels, promotion
from optikit_assets.promotion import Slot
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog, digest
from tests.tiny_model import write_model
from tests.unit.deployment import samples

SLOT = Slot("production", "tiny", "chat")


def machine(memory, folder):
    return ObjectStore(Bucket("s3://bucket/prefix", memory), ArtifactCache(folder))


def keep(store, model, checkpoint_digest):
    """Have a bundle of a baseline."""
    deployment = samples.deployment().model_copy(
        update={
            "model": "tiny", "model_version": "1", "recipe": "baseline", "tuned": False,
            "checkpoint_digest": checkpoint_digest,
        }
    )  # fmt: skip
    with store.create(digest("bundle"), "deployable_config") as draft:
        DEPLOYMENT_FILE.write(draft, deployment)
        draft.file("vllm.yaml").write_text(f"model: {model}\nserved-model-name: tiny@1\n")
    return store.get(digest("bundle"))


def test_a_channel_serves_a_base_model_that_another_machine_put_into_the_bucket(home, tmp_path):
    memory = MemoryStore()
    there = machine(memory, tmp_path / "there")
    folder = write_model(tmp_path / "tiny" / "1", 1)
    shared = there.share(Reference.to(folder, "model", "model tiny@1"))
    bundle = keep(there, shared.symbol, shared.sha256)
    here = machine(memory, tmp_path / "here")
    assert promotion._damage(here, here.get(bundle.key)) == ""
    assert channels.linked(SLOT) is None
    ready = channels.make_ready(here, SLOT, bundle.key, bundle.digest)
    link = channels.point(here, SLOT, ready)
    assert channels.linked(SLOT) == bundle.key
    config = yaml.safe_load((link / "vllm.yaml").read_text())
    assert config["model"] == str(link.resolve() / "weights")
    weights = (folder / "model.safetensors").read_bytes()
    assert (tmp_path.joinpath(config["model"]) / "model.safetensors").read_bytes() == weights
    kept = json.loads((tmp_path / "here/kept/channels/production/tiny/chat").read_text())
    assert set(kept) == {bundle.key, shared.where}
    # What is served is never touched: once more is the same folder, another content another one.
    assert channels.make_ready(here, SLOT, bundle.key, bundle.digest) == ready
    served = ready.path.stat().st_ino
    engine = get_engine("vllm")
    other = releases.promoted_bundle(here, engine, here.get(bundle.key), "renamed@1", "other")
    assert other.path != ready.path
    assert (other.key, other.path.name) == (bundle.key, bundle.key)
    assert ready.path.stat().st_ino == served
    with pytest.raises(StorageError, match="made anew, with another content"):
        channels.make_ready(here, SLOT, bundle.key, "another")
    # Nothing proves what a bucket has lost.
    here.remove(shared.where)
    assert "is not in" in promotion._damage(here, here.get(bundle.key))


def test_the_newest_bundle_names_the_model_where_the_cache_has_it(home, tmp_path):
    memory = MemoryStore()
    there = machine(memory, tmp_path / "there")
    shared = there.share(Reference.to(write_model(tmp_path / "tiny" / "1", 1), "model", "tiny@1"))
    bundle = keep(there, shared.symbol, shared.sha256)
    here = machine(memory, tmp_path / "here")
    newest = releases.local_bundle(here, get_engine("vllm"), bundle, "tiny@1", "tiny@1/chat")
    config = yaml.safe_load((newest.path / "vllm.yaml").read_text())
    assert config["model"].startswith(str(tmp_path / "here"))


@pytest.mark.parametrize("links", [True, False])
def test_a_promoted_copy_has_the_weights_and_the_flags_of_the_bundle(
    home, tmp_path, monkeypatch, links
):
    store = LocalStore(tmp_path / "artifacts")
    key = digest("checkpoint")
    with store.create(key, "checkpoint") as draft:
        write_model(draft.path, 1)
    weights = store.get(key)
    with store.create(digest("bundle"), "deployable_config") as draft:
        DEPLOYMENT_FILE.write(draft, samples.deployment())
        flags = {"max_num_seqs": 64, "compilation_config": '{"mode": 3}'}
        text = get_engine("vllm").config_text(
            flags, model=str(weights.folder()), served_model_name=samples.deployment().model_key
        )
        draft.file("vllm.yaml").write_text(text)
        draft.references[key] = weights.digest
    bundle = store.get(digest("bundle"))
    if not links:
        # As where the store lies on another file system.
        def refuse(*args, **how):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr("os.link", refuse)
    ready = channels.make_ready(store, SLOT, bundle.key, bundle.digest)
    shipped, served = (yaml.safe_load((f / "vllm.yaml").read_text()) for f in (
        bundle.folder(), ready.path))  # fmt: skip
    assert served == {**shipped, "model": str(ready.path / "weights")}
    original, copy = weights.file("model.safetensors"), ready.path / "weights/model.safetensors"
    assert copy.read_bytes() == original.read_bytes()
    assert original.samefile(copy) is links
    assert store.verify(bundle.key).digest == bundle.digest


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_after_the_decision_is_told_as_such(home, tmp_path, monkeypatch, error):
    store = machine(MemoryStore(), tmp_path / "here")
    folder = write_model(tmp_path / "tiny" / "1", 1)
    shared = store.share(Reference.to(folder, "model", "model tiny@1"))
    bundle = keep(store, shared.symbol, shared.sha256)
    ready = channels.make_ready(store, SLOT, bundle.key, bundle.digest)

    def full(self, *args, **how):
        raise OSError(error, os.strerror(error), str(self))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(StorageError, match="it is decided, and stays so"):
        promotion._point(store, SLOT, ready)
    with pytest.raises(StorageError, match="what is kept for next"):
        channels.make_ready(store, SLOT, bundle.key, bundle.digest)


@pytest.mark.parametrize("known", [True, False])
def test_of_a_baseline_the_weights_themselves_are_looked_at(home, tmp_path, known):
    registry = ModelRegistry(home, REPOSITORY, Catalog.load(settings().recipes))
    folder = write_model(tmp_path / "tiny" / "1", 1)
    model = registry.fetch(registry.add(str(folder)))
    store = machine(MemoryStore(), tmp_path / "here")
    bundle = keep(store, folder, model.digest if known else None)
    if not known:
        assert "no digest of the weights" in promotion._damage(store, bundle)
        return
    assert promotion._damage(store, bundle) == ""
    write_model(folder, 2)
    assert "are not those that tiny@1 was certified with" in promotion._damage(store, bundle)
