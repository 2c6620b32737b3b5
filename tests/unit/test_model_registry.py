"""Names, sources and checks of model versions."""

import hashlib
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from optikit_assets.artifacts import file_digests
from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.model_folder import check_model_folder
from optikit_assets.artifacts.models import ModelRegistry, ModelVersion
from optikit_assets.errors import ModelError, SpecError, StorageError, UnknownNameError
from optikit_assets.model_files import read_safetensors_header
from optikit_assets.specs import Catalog, ModelSpec
from tests.tiny_model import CONFIG, safetensors_bytes


def make_model(folder: Path, fill: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(
        safetensors_bytes({"embed": (100, 64), "norm": (64,)}, fill)
    )
    return folder


def registry(tmp_path: Path, **models: ModelSpec) -> ModelRegistry:
    return ModelRegistry(tmp_path / "home", tmp_path, Catalog(tmp_path / "recipes", models=models))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "qwen")


def refusal(folder: Path, **kwargs) -> str:
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


# --- the folder ---------------------------------------------------------------------------------


def test_whole_model_is_described(tmp_path, folder):
    found = registry(tmp_path).describe(folder)
    assert found.architecture == "LlamaForCausalLM"
    assert found.parameters == 100 * 64 + 64
    assert found.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert found.context_length == 512
    assert found.total_bytes == sum(file.stat().st_size for file in folder.iterdir())


def test_facts_of_a_nested_language_config_are_found(tmp_path, folder):
    (folder / "config.json").write_text(
        json.dumps(
            {"architectures": ["Gemma3"], "text_config": CONFIG, "max_position_embeddings": 7}
        )
    )
    found = registry(tmp_path).describe(folder)
    assert (found.architecture, found.context_length) == ("Gemma3", 512)


def test_missing_folder_is_named(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[]", "holds a JSON list, not an object"),
        ("tokenizer.json", None, "has no tokenizer"),
        ("tokenizer.json", '{"a', "tokenizer.json is not valid JSON"),
        ("model.safetensors", None, "has no weights: *.safetensors expected, found config.json"),
        ("model.safetensors", "", "is not a safetensors file (0 bytes"),
        ("model.safetensors", "x" * 100, "is not a safetensors file (100 bytes"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("config.json", '{"auto_map": {"AutoModel": "m.M"}}', "trust_remote_code: true"),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["t.T"]}}', "tokenizer_config"),
    ],
)
def test_unusable_file_is_named_in_one_line(folder, file, content, expected):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    assert expected in refusal(folder)


def test_custom_code_is_accepted_when_trusted(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG | {"auto_map": {"AutoModel": "m.M"}}))
    assert "trust_remote_code: true" in refusal(folder)
    found = check_model_folder(folder, trust_remote_code=True)
    assert found.config["auto_map"] == {"AutoModel": "m.M"}
    assert found.parameters == 100 * 64 + 64


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.01])
def test_truncated_weights_name_expected_and_actual_bytes(folder, kept):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    cut = int(len(whole) * kept)
    file.write_bytes(whole[:cut])
    message = refusal(folder)
    assert f"{file} is truncated" in message
    assert f"{cut} found" in message
    if kept > 0.1:  # below that the header itself is cut and the whole size unknown
        assert f"{len(whole)} bytes expected" in message


def test_trailing_bytes_are_refused(folder):
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    assert "4 more than its header describes" in refusal(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF16", "shape": [3], "data_offsets": [0, 4]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [4, 8]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [4, 0]},
        {"dtype": "BF16", "data_offsets": [0, 4]},
        [],
    ],
)
def test_inconsistent_header_is_refused(tmp_path, entry):
    text = json.dumps({"w": entry}).encode()
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    with pytest.raises(ModelError, match="damaged safetensors header"):
        read_safetensors_header(file)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused(folder, pickle):
    (folder / "model.safetensors").rename(folder / pickle)
    assert f"pickled weights only ({pickle})" in refusal(folder)


def test_sharded_model_needs_every_file_and_tensor_of_its_index(folder):
    (folder / "model.safetensors").unlink()
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for n, shard in enumerate(shards):
        (folder / shard).write_bytes(safetensors_bytes({f"w{n}": (8, 8)}))
    assert "no model.safetensors.index.json" in refusal(folder)

    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w0": shards[0], "w1": shards[1]}}))
    assert check_model_folder(folder).parameters == 128

    index.write_text(json.dumps({"weight_map": {"w0": shards[0], "w1": shards[1], "x": shards[1]}}))
    assert "lacks 1 tensors" in refusal(folder)
    index.write_text(json.dumps({"weight_map": {"w0": "../other.safetensors"}}))
    assert "not a file name" in refusal(folder)
    index.write_text(json.dumps({"weight_map": {"w0": shards[0], "w1": shards[1]}}))
    (folder / shards[1]).unlink()
    assert f"lacks 1 of 2 weight files of its index: {shards[1]}" in refusal(folder)


# --- the digest ---------------------------------------------------------------------------------


def test_digest_follows_contents_not_location_or_notes(tmp_path, folder):
    models = registry(tmp_path)
    first = models.describe(folder).digest
    (folder / "README.md").write_text("notes")
    copy = make_model(tmp_path / "elsewhere" / "copy")
    assert models.describe(folder).digest == models.describe(copy).digest == first

    changed = make_model(tmp_path / "changed", fill=1)
    assert models.describe(changed).digest != first
    (copy / "generation_config.json").write_text("{}")
    assert models.describe(copy).digest != first


def test_unchanged_old_files_are_not_read_again(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(file_digests, "_SETTLED_S", 0.0)
    first = registry(tmp_path).describe(folder)

    def no_reading(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(file_digests.hashlib, "file_digest", no_reading)
    assert registry(tmp_path).describe(folder) == first


def test_young_or_changed_files_are_read_again(tmp_path):
    file = tmp_path / "w"
    digests = FileDigests(tmp_path / "cache.json")
    file.write_text("one")
    (one,) = digests.of([file])
    status = file.stat()
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    (two,) = digests.of([file])
    assert one != two


def test_an_edit_that_restores_size_and_mtime_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(file_digests, "_SETTLED_S", 0.0)
    file = tmp_path / "w"
    file.write_text("one")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    digests = FileDigests(tmp_path / "cache.json")
    (one,) = digests.of([file])
    file.write_text("two")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert digests.of([file]) != [one]


def test_a_further_link_to_a_file_that_is_read_is_no_change_of_it(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"x" * 100)
    real, reads = file_digests.hashlib.file_digest, []

    def linked_meanwhile(stream, how):
        reads.append(stream)
        if len(reads) == 1:
            time.sleep(0.01)
            os.link(file, tmp_path / "copy")
        return real(stream, how)

    monkeypatch.setattr(file_digests.hashlib, "file_digest", linked_meanwhile)
    assert FileDigests().of([file]) == [hashlib.sha256(b"x" * 100).hexdigest()]
    assert len(reads) == 2


def test_digests_of_files_that_are_gone_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(file_digests, "_SETTLED_S", 0.0)
    cache = tmp_path / "cache.json"
    gone, stays, new = files = [tmp_path / name for name in ("gone", "stays", "new")]
    for file in files:
        file.write_text(file.name)
    FileDigests(cache).of([gone, stays])
    assert set(json.loads(cache.read_text())) == {str(gone), str(stays)}
    gone.unlink()
    FileDigests(cache).of([new])
    assert set(json.loads(cache.read_text())) == {str(stays), str(new)}


def test_damaged_digest_cache_costs_time_only(tmp_path, folder):
    models = registry(tmp_path)
    first = models.describe(folder).digest
    cache = tmp_path / "home" / "cache" / "file-digests.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("{half")
    assert models.describe(folder).digest == first


# --- names and versions -------------------------------------------------------------------------


def test_versions_come_from_recipes_and_from_home_in_natural_order(tmp_path):
    for version in ("v10", "v2", "v9"):
        make_model(tmp_path / "weights" / version)
    make_model(tmp_path / "home" / "models" / "qwen" / "v1")
    (tmp_path / "weights" / ".hidden").mkdir()
    models = registry(
        tmp_path,
        qwen=ModelSpec(name="qwen", source="weights"),
        hub=ModelSpec(name="hub", source="hf:org/name"),
    )
    assert [v.key for v in models.versions("qwen")] == ["qwen@v1", "qwen@v2", "qwen@v9", "qwen@v10"]
    assert models.versions()[0].key == "hub@main"
    assert models.resolve("qwen").version == "v10"
    assert models.resolve("qwen@v2").source == str(tmp_path / "weights" / "v2")
    assert models.resolve("hub").source == "hf:org/name@main"


def test_unknown_model_and_version_list_what_is_known(tmp_path):
    make_model(tmp_path / "home" / "models" / "qwen" / "v1")
    models = registry(tmp_path)
    with pytest.raises(UnknownNameError, match=r"'gwen'; known: qwen@v1\. .*models add PATH"):
        models.resolve("gwen")
    with pytest.raises(UnknownNameError, match=r"'qwen@v7'; known: qwen@v1"):
        models.resolve("qwen@v7")


def test_badly_named_or_pointing_folders_are_reported_and_left_out(tmp_path):
    base = tmp_path / "home" / "models" / "qwen"
    make_model(base / "v1")
    make_model(base / "v2|x")
    (base / "v3").mkdir()
    (base / "v3" / "source.json").write_text('{"url": 1}')
    models = registry(tmp_path)
    assert [v.key for v in models.versions()] == ["qwen@v1"]
    assert len(models.problems()) == 2
    assert "v2|x" in models.problems()[0]
    assert "source.json must hold" in models.problems()[1]


@pytest.mark.parametrize(
    ("place", "name", "version", "key"),
    [
        ("qwen/v2", None, None, "qwen@v2"),
        ("qwen/2.5.1", None, None, "qwen@2.5.1"),
        ("Qwen2.5-7B", None, None, "Qwen2.5-7B@1"),
        ("qwen/v2", "mine", None, "mine@v2"),
        ("qwen/v2", None, "7", "qwen@7"),
    ],
)
def test_added_folder_gets_its_name_from_its_place(tmp_path, place, name, version, key):
    path = make_model(tmp_path / "in" / place)
    models = registry(tmp_path)
    added = models.add(str(path), name, version)
    assert added.key == key
    assert models.resolve(key) == added
    assert models.fetch(added).path == path
    assert models.add(str(path), name, version) == added


def test_version_cannot_be_taken_over_by_another_folder(tmp_path):
    models = registry(tmp_path)
    models.add(str(make_model(tmp_path / "a" / "qwen" / "v1")))
    with pytest.raises(
        ModelError, match=r"exists already with source .*/a/qwen/v1; choose another"
    ):
        models.add(str(make_model(tmp_path / "b" / "qwen" / "v1")))


@pytest.mark.parametrize("name", ["a@b", "a|b", "a,b", "a[0]", "a...b", "a b", ""])
def test_name_that_breaks_a_partition_key_is_refused(tmp_path, folder, name):
    models = registry(tmp_path)
    if name:
        with pytest.raises(SpecError, match=r"<argument>: name: .*pass --name"):
            models.add(str(folder), name)
    assert models.versions() == []


def test_unusable_folder_is_not_added(tmp_path, folder):
    (folder / "config.json").unlink()
    models = registry(tmp_path)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        models.add(str(folder))
    assert models.versions() == []


def test_pointers_that_earlier_releases_wrote_are_read(tmp_path, folder):
    base = tmp_path / "home" / "models" / "old"
    pointers = {
        "1": {"path": str(folder)},
        "2": {"hf": "org/name", "revision": "r2"},
        "3": {"hf": "org/name", "commit": "c0ffee"},
    }
    for version, content in pointers.items():
        (base / version).mkdir(parents=True)
        (base / version / "source.json").write_text(json.dumps(content))
    assert registry(tmp_path).versions() == [
        ModelVersion("old", "1", str(folder)),
        ModelVersion("old", "2", "hf:org/name@r2"),
        ModelVersion("old", "3", "hf:org/name@main", "c0ffee"),
    ]


# --- the hub ------------------------------------------------------------------------------------


def test_a_malformed_source_in_a_models_spec_names_file_and_key(tmp_path):
    models = registry(
        tmp_path,
        m=ModelSpec(name="m", source="hf:too/many/parts"),
        other=ModelSpec(name="other", source="hf:org/name"),
    )
    expected = (
        r"^recipes/models/m\.yaml: source: 'hf:too/many/parts' is not of the form hf:ORG/NAME"
    )
    with pytest.raises(SpecError, match=expected):
        models.resolve("m")
    # That is no reason against the others.
    assert [version.name for version in models.versions()] == ["other"]
    assert re.match(expected, models.problems()[0])


@pytest.mark.parametrize("text", ["hf:", "hf:name", "hf:a/b/c", "hf:a b/c"])
def test_malformed_hub_reference_is_refused(tmp_path, text):
    with pytest.raises(SpecError, match="hf:ORG/NAME"):
        registry(tmp_path).add(text)


def test_hub_reference_is_added_without_a_download(tmp_path, monkeypatch):
    FakeHub(monkeypatch, tmp_path / "nothing", failure=ConnectionError("no route to host"))
    models = registry(tmp_path)
    assert models.add("hf:org/name") == ModelVersion("name", "main", "hf:org/name@main")
    assert models.add("hf:org/name@r2", version="2").key == "name@2"
    assert models.resolve("name@2").source == "hf:org/name@r2"


class FakeHub:
    """What the hub client answers; `calls` records the download's arguments."""

    def __init__(self, monkeypatch, folder: Path, size: int = 1000, failure=None) -> None:
        self.calls: list[dict] = []
        files = [
            SimpleNamespace(rfilename="model.safetensors", size=size),
            SimpleNamespace(rfilename="pytorch_model.bin", size=10**18),
            SimpleNamespace(rfilename="original/x.safetensors", size=10**18),
        ]

        def model_info(_api, _repository, **_):
            if failure is not None:
                raise failure
            return SimpleNamespace(sha="c0ffee", siblings=files)

        def snapshot_download(repository, **kwargs):
            self.calls.append({"repository": repository, **kwargs})
            if kwargs.get("local_files_only") and not folder.exists():
                raise hub_errors.LocalEntryNotFoundError("not cached")
            return str(folder)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def test_hub_download_takes_safetensors_only_into_home(tmp_path, folder, monkeypatch):
    hub = FakeHub(monkeypatch, folder)
    models = registry(tmp_path)
    fetched = models.fetch(models.add("hf:org/name@r2"))
    assert fetched.path == folder
    (call,) = hub.calls
    assert call["cache_dir"] == tmp_path / "home" / "hub"
    assert call["revision"] == "c0ffee"
    assert "*.bin" not in call["allow_patterns"]


def test_hub_download_that_does_not_fit_is_refused_before_it_starts(tmp_path, folder, monkeypatch):
    hub = FakeHub(monkeypatch, folder, size=10**17)
    models = registry(tmp_path)
    with pytest.raises(StorageError, match="TiB needed"):
        models.fetch(models.add("hf:org/name"))
    assert hub.calls == []


def test_unreachable_hub_falls_back_to_the_last_copy_or_says_what_to_do(
    tmp_path, folder, monkeypatch
):
    FakeHub(monkeypatch, folder)
    models = registry(tmp_path)
    version = models.add("hf:org/name")
    FakeHub(monkeypatch, folder, failure=ConnectionError("no route\nto host"))
    assert models.fetch(version).path == folder

    FakeHub(monkeypatch, tmp_path / "nothing", failure=ConnectionError("no route\nto host"))
    with pytest.raises(ModelError, match=r"cannot be reached \(no route to host\).*add PATH"):
        models.fetch(version)
