"""One task's model: merging, undoing it, saving without hypernetworks."""

import json

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
        ("task.json", '{"format": 1, "sha256": 3}', "task.json: sha256 must be a str, got 3"),
        ("config.json", "{", "config.json: no config of a BertModel"),
        ("config.json", '{"hidden_size": "many"}', "config.json: no config of a BertModel"),
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
        with pytest.raises(ValueError, match=r"holds the model.safetensors of something else, which would be lost"):
            save(tmp_path / folder)
        assert {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} == before
    make_model("t5").merge("a").save_pretrained(tmp_path / "merged")  # a task's model over another
    merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "generation_config.json").exists()
    TaskModel.from_pretrained(tmp_path / "merged")
