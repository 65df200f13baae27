"""One task's model: merging, undoing it, exporting it."""

import pytest
import torch
from helpers.tiny import BACKBONES, TASK_IDS, TASKS, logits, make, make_batch, make_model
from torch import nn

from hyperloader import HyperLoaderModel
from hyperloader.model.attachment import Site
from hyperloader.model.task_model import TaskModel


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
    for selected in ({"task": "b c"}, {"task_ids": torch.zeros(5).long()}):
        with pytest.raises(ValueError, match="this model serves task 'a' alone"):
            merged(**batch, **selected)


def test_cast_while_merged_in_place():
    """The layers that come back are in the dtype that the rest has now."""
    model = make_model()
    merged = model.merge("a", inplace=True)
    merged.float()
    model.unmerge()
    assert {parameter.dtype for parameter in model.backbone.parameters()} == {torch.float32}
    expected = make_model().float()
    torch.testing.assert_close(logits(model.float(), "t5", task="b c"), logits(expected, "t5", task="b c"))


def test_what_is_trained_is_float32_again_after_a_cast():
    model = make_model("bert", torch.float32)
    model.merge("a", inplace=True).half()
    model.unmerge()
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert model.generated_dtype == torch.float16
    model.train()(**make_batch("bert"), task_ids=TASK_IDS).loss.backward()


def test_a_merged_model_ends_with_unmerge(tmp_path):
    """The backbone would else compute what another task, merged later, has put there."""
    model = make_model("bert")
    merged = model.merge("a", inplace=True)
    model.unmerge()
    model.merge("b c", inplace=True)
    for call in (lambda: logits(merged, "bert"), lambda: merged.save_pretrained(tmp_path / "a")):
        with pytest.raises(
            RuntimeError, match=r"ended with unmerge\(\), which took 'a' out of its backbone: call merge"
        ):
            call()
    assert not (tmp_path / "a").exists()


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
