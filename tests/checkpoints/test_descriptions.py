"""Edited descriptions: refused with the file's name, or harmless."""

import json
import shutil

import pytest
from helpers import tampered, tiny
from helpers.tampered import STRANGE, changed, fields, no_network, write  # noqa: F401

from hyperloader import HyperLoaderModel
from hyperloader.model.task_model import TaskModel


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of an encoder, and a task's model of one that generates."""
    folder = tmp_path_factory.mktemp("saved")
    tiny.make_model("bert").save_pretrained(folder / "model")
    tiny.make_model("bert").merge("a").save_pretrained(folder / "task")
    tiny.make_model("t5").merge("a").save_pretrained(folder / "t5")
    return folder


def values_of(path):
    return json.loads(path.read_text())


SAVED = {  # the fields of each file, so that each is a test of its own
    ("model", "hyperloader.json"): ("config", "backbone"),
    ("task", "task.json"): ("config", "sha256", "adapted"),
    ("t5", "generation_config.json"): (),
    ("t5", "config.json"): (),
    ("task", "config.json"): (),
}


def load(folder):
    if (folder / "hyperloader.json").exists():
        return HyperLoaderModel.from_pretrained(folder, tiny.make("bert"))
    return TaskModel.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "file"), SAVED, ids=str)
@pytest.mark.usefixtures("no_network")
def test_any_value_in_any_field(kind, file, folders, tmp_path):
    """An error that names the file, or a model; never network access, nor more memory than the weights take."""
    folder = tmp_path / "copy"
    shutil.copytree(folders / kind, folder)
    before = values_of(folder / file)
    foreign = []
    for path in fields(before):
        if path == ("description_sha256",):
            continue  # what it is for is tested below
        for value in STRANGE:
            write(folder, file, changed(before, path, value))
            try:
                load(folder)
            except ValueError as error:
                if str(folder) not in str(error) or len(str(error)) > 4000:
                    foreign.append((path, value, f"{error!r:.200}"))
            except Exception as error:
                foreign.append((path, value, f"{error!r:.200}"))
    assert not foreign, "\n".join(map(str, foreign))


@pytest.mark.parametrize("value", STRANGE, ids=str)
def test_any_value_in_a_fingerprint(value, folders, tmp_path):
    shutil.copytree(folders / "model", tmp_path / "copy")
    path = tmp_path / "copy" / "hyperloader.json"
    before = values_of(path)
    name = "embeddings.word_embeddings.weight"
    for strange in (value, [value, [0.5]], [[50, 16], value], [[50, 16], [value] * 8], [value, value]):
        write(path.parent, path.name, changed(before, ("backbone", "fingerprint", name), strange))
        with pytest.raises(ValueError, match=f"copy.*{name}"):
            load(path.parent)


@pytest.mark.parametrize("file", ["hyperloader.json", "task.json", "config.json"])
def test_no_object(file, folders, tmp_path):
    kind = "model" if file == "hyperloader.json" else "task"
    shutil.copytree(folders / kind, tmp_path / "copy")
    for text in ("[" * 10_000, '{"format": NaN}', '{"format": 1, "format": 1}', "\x00", '{"a": ' * 10_000):
        (tmp_path / "copy" / file).write_text(text)
        with pytest.raises(ValueError, match=file):
            load(tmp_path / "copy")


def test_a_name_that_stands_twice_comes_with_its_file(folders, tmp_path):
    shutil.copytree(folders / "model", tmp_path / "copy")
    path = tmp_path / "copy" / "hyperloader.json"
    write(path.parent, path.name, changed(values_of(path), ("backbone", "trained"), ["a", "a"]))
    with pytest.raises(ValueError, match=r"hyperloader\.json: backbone\.trained must be distinct, got 'a' 2 times"):
        load(path.parent)


def test_names_swapped_by_hand_are_noticed(tmp_path):
    tiny.make_model("bert", labels={task: ["O", "B-x"] for task in tiny.TASKS}).save_pretrained(tmp_path)
    path = tmp_path / "hyperloader.json"
    values = values_of(path)
    values["config"]["tasks"].reverse()
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"hyperloader\.json: was changed after it was saved.* remove the line descr"):
        load(path.parent)
    del values["description_sha256"]  # as earlier versions wrote it, or whoever means the change
    path.write_text(json.dumps(values))
    assert load(path.parent).hyperloader_config.tasks == tuple(reversed(tiny.TASKS))


def test_the_backbone_may_be_moved(folders, tmp_path):
    shutil.copytree(folders / "model", tmp_path / "copy")
    path = tmp_path / "copy" / "hyperloader.json"
    path.write_text(json.dumps(changed(values_of(path), ("backbone", "name"), "elsewhere")))
    assert load(path.parent).hyperloader_config.tasks == tuple(tiny.TASKS)


def test_a_changed_task_is_noticed(folders, tmp_path):
    shutil.copytree(folders / "task", tmp_path / "copy")
    path = tmp_path / "copy" / "task.json"
    values = values_of(path)
    values["config"] |= {"tasks": ["other"], "labels": {"other": values["config"]["labels"]["a"]}}
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"task\.json: was changed after it was saved"):
        load(path.parent)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "sub/x", ".", "", "task.json", "C:\\x"])
def test_hashes_name_no_other_files(name, folders, tmp_path):
    shutil.copytree(folders / "task", tmp_path / "copy")
    (tmp_path / "x").touch()
    path = tmp_path / "copy" / "task.json"
    write(path.parent, "task.json", changed(values_of(path), ("sha256", name), "0" * 64))
    with pytest.raises(ValueError, match=r"task\.json: sha256 must name files of model\.safetensors, .* alone, got"):
        load(path.parent)


CODE = [
    {"attn_implementation": "owner/repo"},
    {"_attn_implementation": "kernels-community/flash-attn"},
    {"_attn_implementation_internal": "owner/repo:kernel"},
    {"attn_implementation": {"": "owner/repo"}},
    {"attn_implementation": {"text": "paged|owner/repo"}},
    {"experts_implementation": "owner/repo"},
    {"text_config": {"attn_implementation": "owner/repo"}},
    {"attn_implementation": "flash_attention_3"},
    {"attn_implementation": "sdpa_paged"},
    {"attn_implementation": 7},
    {"attn_implementation": ["owner/repo"]},
]


@pytest.mark.parametrize("change", CODE, ids=str)
@pytest.mark.usefixtures("no_network")
def test_no_attention_from_elsewhere(change, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shutil.copytree(folders / "task", tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    write(path.parent, "config.json", values_of(path) | change)
    with pytest.raises(ValueError, match=r"config\.json: \w*implementation\w* (must be one|is flash_attention_3)"):
        load(path.parent)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attentions_of_transformers_are_taken(name, folders, tmp_path):
    shutil.copytree(folders / "task", tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    write(path.parent, "config.json", values_of(path) | {"attn_implementation": name})
    assert load(path.parent).config._attn_implementation == name


@pytest.mark.usefixtures("no_network")
def test_code_beside_the_weights_is_not_run(folders, tmp_path):
    shutil.copytree(folders / "task", tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    (path.parent / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    code = {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        "trust_remote_code": True,
        "_name_or_path": "owner/repo",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "custom_generate": "owner/repo",
    }
    write(path.parent, "config.json", values_of(path) | code)
    load(path.parent)
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("no_network")
def test_a_backbone_with_attention_from_elsewhere(tmp_path):
    backbone = tiny.make("bert")
    backbone.save_pretrained(tmp_path / "backbone")
    backbone.config._name_or_path = str(tmp_path / "backbone")
    HyperLoaderModel(backbone, tiny.make_model("bert").hyperloader_config).save_pretrained(tmp_path / "saved")
    path = tmp_path / "backbone" / "config.json"
    path.write_text(json.dumps(values_of(path) | {"attn_implementation": "owner/repo"}))
    with pytest.raises(ValueError, match="attn_implementation must be one of eager"):
        HyperLoaderModel.from_pretrained(tmp_path / "saved")


def test_sizes_beyond_the_memory_are_refused_at_once():
    for change in ({"rank": 10**9}, {"rank": 2**31 - 1, "condition_dim": 2**31 - 1}, {"bottleneck": 10**12 % 2**31}):
        with pytest.raises(ValueError, match="config must describe"):
            tiny.make_model("bert", **change)


def test_the_fixture_sees_the_network(no_network):  # noqa: F811
    import socket

    with pytest.raises(AssertionError, match="the network was asked for"):
        socket.create_connection(("localhost", 1))
    assert tampered.STRANGE
