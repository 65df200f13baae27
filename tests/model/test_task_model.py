"""One task's model: saved and loaded without hypernetworks."""

import hashlib
import json

import pytest
import torch
from helpers.disk import interrupt_second_replace
from helpers.tiny import BACKBONES, SEQUENCE_TO_SEQUENCE, logits, make, make_batch, make_model
from torch import nn
from transformers import BertModel, PreTrainedModel

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.model.task_model import TaskModel


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_saves_and_loads_without_hypernetworks(name, dtype, tmp_path):
    model = make_model(name, dtype=dtype)
    merged = model.merge("ü.weight")
    merged.save_pretrained(tmp_path)
    loaded = TaskModel.from_pretrained(tmp_path)
    assert loaded.task == "ü.weight"
    assert loaded.labels == merged.labels
    assert torch.equal(logits(loaded, name), logits(merged, name))
    assert next(loaded.parameters()).dtype == dtype
    if name in SEQUENCE_TO_SEQUENCE:
        ids = make_batch(name)["input_ids"]
        assert torch.equal(loaded.generate(ids, max_new_tokens=5), merged.generate(ids, max_new_tokens=5))


def test_without_a_pooler(tmp_path):
    torch.manual_seed(1)
    backbone = BertModel(make("bert").config, add_pooling_layer=False)
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=["a"], labels={"a": ["O"]}, bottleneck=2)).eval()
    merged = model.merge("a")
    merged.save_pretrained(tmp_path)
    loaded = TaskModel.from_pretrained(tmp_path)
    assert loaded.backbone.pooler is None
    assert torch.equal(logits(loaded, "bert"), logits(merged, "bert"))


def test_what_cannot_be_built_again_is_not_saved(tmp_path):
    merged = make_model("bert").merge("a")
    embeddings = merged.backbone.embeddings
    embeddings.token_type_embeddings.weight = nn.Parameter(torch.zeros(3, 16).double())
    message = r"class and config do not build again: embeddings.token_type_embeddings.weight must have shape \(2, 16\)"
    with pytest.raises(ValueError, match=message.replace("again: ", "again: backbone.")):
        merged.save_pretrained(tmp_path / "a")
    embeddings.token_type_embeddings.weight = embeddings.position_embeddings.weight  # a tie that no config knows
    with pytest.raises(ValueError, match="do not build again: tensors missing: backbone.embeddings.token_type"):
        merged.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("task.json", "{", "task.json: not the description of a task's model"),
        ("task.json", "{}", "not the description of a task's model of format 1"),
        ("task.json", "[]", r"not the description of a task's model: must hold one JSON object, got \[\]"),
        ("task.json", '{"format": 1, "sha256": 3}', "task.json: sha256 must be a dict, got 3"),
        ("config.json", "{", "config.json: truncated, changed, or not the file that task.json describes"),
    ],
)
def test_broken_descriptions(file, text, message, tmp_path):
    make_model("bert").merge("a").save_pretrained(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        TaskModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "Nothing"}, "backbone class 'Nothing' is none of transformers'"),
        ({"adapted": {"encoder.nowhere": [4, 16]}}, "task.json: describes no BertModel with adapters"),
        (
            {"adapted": {"encoder.layer.0.output.dense": [-1, 16]}},
            "the bottleneck of encoder.layer.0.output.dense must be at least 1, got -1",
        ),
        ({"config": {"tasks": ["a", "b"]}}, "task.json: config.tasks must name one task, got a, b"),
        ({"adapted": {}}, "model.safetensors: tensors missing: 8 names such as backbone.encoder"),
        ({"config": {"tasks": []}}, "task.json: tasks"),
    ],
    ids=str,
)
def test_descriptions_of_something_else(change, message, tmp_path):
    make_model("bert").merge("a").save_pretrained(tmp_path)
    path = tmp_path / "task.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        TaskModel.from_pretrained(tmp_path)


def test_another_models_folder_is_left_alone(tmp_path):
    model = make_model("bert")
    merged = model.merge("a")
    merged.save_pretrained(tmp_path / "merged")
    model.save_pretrained(tmp_path / "model")
    for save, folder in ((model.save_pretrained, "merged"), (merged.save_pretrained, "model")):
        before = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        with pytest.raises(ValueError, match=r"holds model.safetensors of another model, which would be lost"):
            save(tmp_path / folder)
        assert {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} == before
    make_model("t5").merge("a").save_pretrained(tmp_path / "merged")  # a task's model over another
    merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "generation_config.json").exists()
    TaskModel.from_pretrained(tmp_path / "merged")


def test_an_invalid_config(tmp_path):
    """Whoever changed config.json and its hash together: the file is named."""
    make_model("bert").merge("a").save_pretrained(tmp_path)
    description = json.loads((tmp_path / "task.json").read_text())
    for text in ("{", '{"hidden_size": "many"}'):
        (tmp_path / "config.json").write_text(text)
        description["sha256"]["config.json"] = hashlib.sha256(text.encode()).hexdigest()
        (tmp_path / "task.json").write_text(json.dumps(description))
        with pytest.raises(ValueError, match="config.json: not the config of a BertModel"):
            TaskModel.from_pretrained(tmp_path)


def test_how_it_generates_is_saved(tmp_path):
    merged = make_model("t5").merge("a")
    merged.backbone.generation_config.num_beams = 4
    merged.save_pretrained(tmp_path)
    assert TaskModel.from_pretrained(tmp_path).backbone.generation_config.num_beams == 4


def test_an_interrupted_save_is_the_old_model_or_the_new(tmp_path, monkeypatch):
    make_model("t5").merge("a").save_pretrained(tmp_path)
    interrupt_second_replace(monkeypatch)
    other = make_model("bert").merge("b c")
    with pytest.raises(KeyboardInterrupt):
        other.save_pretrained(tmp_path)
    assert TaskModel.from_pretrained(tmp_path).task == "b c"


def test_a_full_disk_leaves_the_old_model(tmp_path, monkeypatch):
    make_model("t5").merge("a").save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        make_model("bert").merge("b c").save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_exported_task_does_not_take_the_place_of_its_model(tmp_path):
    model = make_model("bert")
    model.save_pretrained(tmp_path / "model")
    model.export_task("a", tmp_path / "task")
    with pytest.raises(
        ValueError, match="holds a model with generator='hypernetwork', which would be lost to one with"
    ):
        model.export_task("a", tmp_path / "model")
    with pytest.raises(ValueError, match="holds a model with generator='table', which would be lost"):
        model.save_pretrained(tmp_path / "task")
    model.save_pretrained(tmp_path / "model")
    model.export_task("b c", tmp_path / "task")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be a folder, got a file"):
        model.save_pretrained(tmp_path / "file")


def test_classes_that_do_not_tie_by_themselves(tmp_path, monkeypatch):
    """As those of transformers 5.0 on the device meta."""
    merged = make_model("t5", torch.float32).merge("a")
    expected = logits(merged, "t5")

    def without_tying(self, original=PreTrainedModel.post_init):
        self.tie_weights = lambda *_, **__: None
        original(self)
        del self.tie_weights

    monkeypatch.setattr(PreTrainedModel, "post_init", without_tying)
    merged.save_pretrained(tmp_path)
    assert torch.equal(logits(TaskModel.from_pretrained(tmp_path), "t5"), expected)
