"""One task's model: merging, undoing it, saving without hypernetworks."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from tiny import BACKBONES, SEQUENCE_TO_SEQUENCE, TASKS, make, make_batch, make_model
from torch import nn
from transformers import BertModel

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.attach import Site
from hyperloader.task_model import TaskModel


@torch.no_grad()
def logits(model, name, **which):
    batch = make_batch(name)
    if name not in SEQUENCE_TO_SEQUENCE:
        del batch["labels"]
    return model(**batch, **which).logits


@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "in place"])
@pytest.mark.parametrize("name", BACKBONES)
def test_computes_what_the_model_does(name, inplace):
    model = make_model(name)
    expected = logits(model, name, task="b c")
    merged = model.merge("b c", inplace=inplace)
    assert not any(isinstance(module, Site) for module in merged.modules())
    assert (merged.backbone is model.backbone) == inplace
    torch.testing.assert_close(logits(merged, name), expected)
    assert merged.training is False


@pytest.mark.parametrize("norm", ["post", "pre", "both", "none"])
def test_every_norm(norm, tmp_path):
    model = make_model("bert", norm=norm)
    merged = model.merge("a")
    merged.save_pretrained(tmp_path)
    for one in (merged, TaskModel.from_pretrained(tmp_path)):
        torch.testing.assert_close(logits(one, "bert"), logits(model, "bert", task="a"))


def test_undone_to_the_bit():
    model = make_model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [id(module) for module in model.modules()]
    expected = logits(model, "t5", task="a")
    model.merge("b c", inplace=True)
    for call in (
        lambda: logits(model, "t5", task="a"),
        lambda: model.generate(make_batch()["input_ids"], task="a"),
        lambda: model.merge("a"),
        lambda: model.merge("a", inplace=True),
        lambda: model.save_pretrained("anywhere"),
        lambda: model.export_task("a", "anywhere"),
        model.detach,
    ):
        with pytest.raises(RuntimeError, match=r"'b c' is merged into this model's backbone: call unmerge\(\) first"):
            call()
    model.unmerge()
    assert [id(module) for module in model.modules()] == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model, "t5", task="a"), expected)
    with pytest.raises(RuntimeError, match="nothing is merged"):
        model.unmerge()


def test_a_copy_leaves_the_model_alone():
    model = make_model()
    expected = logits(model, "t5", task="a")
    merged = model.merge("b c")
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    assert torch.equal(logits(model, "t5", task="a"), expected)


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


def test_labels_of_one_task():
    model = make_model("bert")
    merged = model.merge("b c")
    batch = make_batch("bert") | {"labels": torch.zeros(5, 7).long()}
    torch.testing.assert_close(merged(**batch).loss, model(**batch, task="b c").loss)
    with pytest.raises(ValueError, match="labels must be below the number of the task's labels"):
        merged(**batch | {"labels": torch.ones(5, 7).long()})


def test_bad_input(tmp_path):
    model = make_model()
    with pytest.raises(ValueError, match="task must be one of"):
        model.merge("d")
    model.train()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        model.merge("a")
    with pytest.raises(FileNotFoundError, match=r"model.safetensors: no such file; a task's model has it"):
        TaskModel.from_pretrained(tmp_path)
    model.eval().merge("a").save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-8])
    with pytest.raises(ValueError, match="truncated, changed, or not the file that task.json describes"):
        TaskModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", BACKBONES)
def test_exported_task_is_a_model_of_its_own(name, tmp_path):
    model = make_model(name)
    expected = {task: logits(model, name, task=task) for task in TASKS}
    model.export_task("b c", tmp_path)
    alone = HyperLoaderModel.from_pretrained(tmp_path, make(name, torch.float64)).double()
    assert alone.hyperloader_config.tasks == ("b c",)
    assert not hasattr(alone, "task_embedding")
    for found in (logits(alone, name, task="b c"), logits(alone.merge("b c"), name)):  # it was loaded as float32
        torch.testing.assert_close(found, expected["b c"], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="task must be one of"):
        model.export_task("d", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_another_task_is_refused():
    merged = make_model().merge("a")
    batch = make_batch()
    assert merged(**batch, task="a").loss.isfinite()
    for which in ({"task": "b c"}, {"task_ids": torch.zeros(5).long()}):
        with pytest.raises(ValueError, match="this model serves task 'a' alone"):
            merged(**batch, **which)


def test_cast_while_merged_in_place():
    """The layers that come back are in the dtype that the rest has now."""
    model = make_model()
    merged = model.merge("a", inplace=True)
    merged.float()
    model.unmerge()
    assert {parameter.dtype for parameter in model.backbone.parameters()} == {torch.float32}
    expected = make_model().float()
    torch.testing.assert_close(logits(model.float(), "t5", task="b c"), logits(expected, "t5", task="b c"))


def test_no_state_while_merged_in_place():
    model = make_model()
    state = model.state_dict()
    model.merge("a", inplace=True)
    for call in (model.state_dict, lambda: model.load_state_dict(state), lambda: nn.Sequential(model).state_dict()):
        with pytest.raises(RuntimeError, match=r"'a' is merged into this model's backbone: call unmerge\(\) first"):
            call()
    model.unmerge()
    model.load_state_dict(state)


def test_merged_in_inference_mode():
    model = make_model()
    expected = logits(model, "t5", task="a")
    with torch.inference_mode():
        merged = model.merge("a")
        torch.testing.assert_close(logits(merged, "t5"), expected)
    assert not any(parameter.is_inference() for parameter in merged.parameters())
    torch.testing.assert_close(logits(merged, "t5"), expected)


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
        ("task.json", "[]", "not the description of a task's model of format 1"),
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
        ({"adapted": {"encoder.layer.0.output.dense": [-1, 16]}}, "must have a bottleneck and 16 units, got"),
        ({"config": {"tasks": ["a", "b"]}}, "task.json: config.tasks must name one task, got a, b"),
        ({"adapted": {}}, "model.safetensors: tensors missing: backbone.encoder"),
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


def test_a_config_that_is_none(tmp_path):
    """Whoever changed config.json and its hash together: the file is named."""
    make_model("bert").merge("a").save_pretrained(tmp_path)
    description = json.loads((tmp_path / "task.json").read_text())
    for text in ("{", '{"hidden_size": "many"}'):
        (tmp_path / "config.json").write_text(text)
        description["sha256"]["config.json"] = hashlib.sha256(text.encode()).hexdigest()
        (tmp_path / "task.json").write_text(json.dumps(description))
        with pytest.raises(ValueError, match="config.json: no config of a BertModel"):
            TaskModel.from_pretrained(tmp_path)


def test_how_it_generates_is_saved(tmp_path):
    merged = make_model("t5").merge("a")
    merged.backbone.generation_config.num_beams = 4
    merged.save_pretrained(tmp_path)
    assert TaskModel.from_pretrained(tmp_path).backbone.generation_config.num_beams == 4


def test_an_interrupted_save_is_the_old_model_or_the_new(tmp_path, monkeypatch):
    make_model("t5").merge("a").save_pretrained(tmp_path)
    replace, calls = Path.replace, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
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


def test_unmerged_in_inference_mode_after_a_cast():
    model = make_model("bert")
    model.merge("a", inplace=True)
    model.float()
    with torch.inference_mode():
        model.unmerge()
    assert not any(parameter.is_inference() for parameter in model.parameters())


def test_device_and_dtype():
    model = make_model("bert")
    for one in (model, model.merge("a")):
        assert (one.device, one.dtype) == (torch.device("cpu"), torch.float64)
