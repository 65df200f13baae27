"""add_task, freeze_except_task_embedding, unfreeze: a new task is learned and nothing else moves."""

import pytest
import torch
from helpers.new_task import (
    NEW,
    NEW_LABELS,
    OPTIMIZERS,
    each_name,
    labels_for,
    make_new,
    new_batch,
    outputs,
    same,
    train,
)
from helpers.tiny import TASK_IDS, TASKS, make_batch, make_model
from transformers import Trainer, TrainingArguments


@each_name
def test_a_new_task_starts_at_the_mean_or_at_another_task(name):
    model = make_model(name)
    weight = model.task_embedding.weight.detach().clone()
    before = outputs(model, name, with_new=False)[: len(TASKS)]
    assert model.add_task(NEW, labels=labels_for(name)) == 3
    assert model.add_task("copy", "b c", labels_for(name)) == 4
    assert model.hyperloader_config.tasks == (*TASKS, NEW, "copy")
    torch.testing.assert_close(model.task_embedding.weight[3], weight.mean(0))
    assert torch.equal(model.task_embedding.weight[4], weight[1])
    assert torch.equal(model.task_embedding.weight[:3], weight)
    assert model.task_embedding.num_embeddings == 5
    assert same(before, outputs(model, name, with_new=False)[: len(TASKS)])
    if labels_for(name):
        assert model.hyperloader_config.labels[NEW] == tuple(NEW_LABELS)
        assert model(make_batch(name)["input_ids"], task=NEW).logits.shape == (5, 7, 2)
        assert model(make_batch(name)["input_ids"], task_ids=TASK_IDS + 2).logits.shape == (5, 7, 5)
    else:
        ids = make_batch(name)
        assert torch.equal(model(**ids, task="copy").logits, model(**ids, task="b c").logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("trained", [True, False])
def test_what_is_new_is_like_what_was_there(dtype, trained):
    """What is trained is float32, on a backbone in half precision too."""
    model = make_model("bert", dtype).train().requires_grad_(trained)
    model.add_task(NEW, labels=["O"])
    head = model.heads.heads[3]
    for parameter in (model.task_embedding.weight, model.heads.heads[0].weight, head.weight, head.bias):
        assert (parameter.dtype, parameter.requires_grad, parameter.grad) == (torch.float32, trained, None)
    assert all(module.training for module in model.modules())


@each_name
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_other_tasks_keep_every_bit(name, optimizer):
    model = make_new(name)
    before, loss = outputs(model, name), model(**new_batch(name), task=NEW).loss
    frozen = {path: value.clone() for path, value in model.state_dict().items()}
    model.freeze_except_task_embedding(NEW)
    train(model, name, OPTIMIZERS[optimizer])
    assert same(before, outputs(model, name))
    assert model(**new_batch(name), task=NEW).loss < loss
    moved = {path for path, value in model.state_dict().items() if not torch.equal(value, frozen[path])}
    assert moved == {"task_embedding.weight"} | (
        {"heads.heads.3.weight", "heads.heads.3.bias"} if labels_for(name) else set()
    )
    model.unfreeze()
    assert same(before, outputs(model, name))
    assert model(**new_batch(name), task=NEW).loss < loss


@each_name
def test_nothing_moves_under_an_optimizer_of_before(name):
    """It holds every parameter, has momentum for it, and gradients are left over."""
    model = make_new(name)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    model(**new_batch(name), task=NEW).loss.backward()
    optimizer.step()
    before = outputs(model, name)
    model.freeze_except_task_embedding(NEW)
    train(model, name, lambda parameters: optimizer)
    assert same(before, outputs(model, name))


def test_decay_moves_other_tasks_without_the_split():
    """What the other tests would not see if rows were only masked."""
    model = make_new()
    before = outputs(model, "bert")
    weight = model.task_embedding.weight
    model.requires_grad_(False)
    weight.requires_grad_(True)
    weight.register_hook(lambda grad: grad * (torch.arange(4) == 3)[:, None])
    train(model, "bert", OPTIMIZERS["adamw"])
    assert not same(before, outputs(model, "bert"))


@pytest.mark.parametrize(("name", "head"), [("t5", 0), ("bert", 2 * 16 + 2)])
def test_only_the_embedding_and_the_head_are_trained(name, head):
    model = make_new(name)
    trained = {path for path, parameter in model.named_parameters() if parameter.requires_grad}
    model.freeze_except_task_embedding(NEW)
    assert model.trainable_parameters() == 64 + head
    model.freeze_except_task_embedding("a")
    assert model.trainable_parameters() == 64 + (3 * 16 + 3 if head else 0), "the other one is frozen again"
    model.unfreeze()
    assert {path for path, parameter in model.named_parameters() if parameter.requires_grad} == trained
    model.unfreeze()
    assert {path for path, parameter in model.named_parameters() if parameter.requires_grad} == trained


def test_one_task_after_another():
    model = make_new()
    model.freeze_except_task_embedding(NEW)
    train(model, "bert")
    learned = model(**new_batch("bert"), task=NEW).logits
    with pytest.raises(ValueError, match=r"not frozen except for 'new': call unfreeze\(\) first"):
        model.add_task("second", labels=["O"])
    assert len(model.heads.heads) == 4
    model.freeze_except_task_embedding("b c")
    assert torch.equal(model(**new_batch("bert"), task=NEW).logits, learned)
    model.unfreeze()
    model.add_task("second", labels=["O"])
    model.freeze_except_task_embedding("second")
    assert torch.equal(model(**new_batch("bert"), task=NEW).logits, learned)


def test_a_plain_trainer_learns_the_new_task(tmp_path):
    model = make_new()
    model.freeze_except_task_embedding(NEW)
    before = outputs(model, "bert")
    rows = [{key: tensor[i] for key, tensor in new_batch("bert").items()} | {"task_ids": 3} for i in range(4)]
    options = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_steps": 2}
    Trainer(model, TrainingArguments(tmp_path, weight_decay=0.1, **options), train_dataset=rows).train()
    assert same(before, outputs(model, "bert"))
    assert not torch.equal(model.state_dict()["task_embedding.weight"][3], model.task_embedding.weight[:3].mean(0))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_the_row_are_those_of_the_table(checkpointing):
    model = make_new(dtype=torch.float64)
    if checkpointing:
        model.train().gradient_checkpointing_enable()
    batch, tasks = make_batch("bert"), torch.tensor([0, 3, 1, 3, 2])
    batch["labels"] = batch["labels"].clamp(max=0)
    model(**batch, task_ids=tasks).loss.backward()
    expected = model.task_embedding.weight.grad[3]
    model.freeze_except_task_embedding(NEW)
    model(**batch, task_ids=tasks).loss.backward()
    torch.testing.assert_close(model.task_embedding.row.grad[0], expected)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("bert", ("a", "mean", ["O"]), ValueError, "name must be new, got 'a', .*choose another name"),
        ("bert", (5, "mean", ["O"]), TypeError, "tasks must be a list of strings, got 5"),
        ("bert", (NEW, "b", ["O"]), ValueError, "init must be 'mean' or one of the tasks a, b c.*got 'b'"),
        ("bert", (NEW, None, ["O"]), ValueError, "init must be 'mean' or one of .*got None"),
        ("bert", (NEW, "mean", None), ValueError, r"labels must be given .*such as \['O'"),
        ("bert", (NEW, "mean", []), ValueError, r"labels\['new'\] must hold at least one label"),
        ("bert", (NEW, "mean", ["O", "O"]), ValueError, r"labels\['new'\] must be distinct"),
        ("bert", (NEW, "mean", "O"), TypeError, r"labels\['new'\] must be a list of strings"),
        ("t5", (NEW, "mean", ["O"]), ValueError, "labels must be None for a model without .*heads"),
        ("t5", ("b c", "a", None), ValueError, "name must be new, got 'b c'"),
    ],
)
def test_bad_arguments_change_nothing(name, arguments, error, message):
    model = make_model(name)
    config, before, names = model.hyperloader_config, outputs(model, name, False), set(model.state_dict())
    with pytest.raises(error, match=message):
        model.add_task(*arguments)
    assert model.hyperloader_config is config
    assert set(model.state_dict()) == names
    assert model.task_embedding.weight.shape == (3, 64)
    assert same(before, outputs(model, name, False))


def test_a_failure_on_the_way_changes_nothing(monkeypatch):
    model = make_model("bert")
    config, before = model.hyperloader_config, outputs(model, "bert", False)

    def full(size):
        raise MemoryError

    monkeypatch.setattr(model.heads, "new_head", full)
    with pytest.raises(MemoryError):
        model.add_task(NEW, labels=NEW_LABELS)
    assert model.hyperloader_config is config
    assert (len(model.heads.heads), len(model.task_embedding.weight)) == (3, 3)
    assert same(before, outputs(model, "bert", False))


def test_an_unknown_task_freezes_nothing():
    model = make_new()
    trained = model.trainable_parameters()
    with pytest.raises(ValueError, match="task must be one of a, b c, ü.weight, new, got 'nwe'; did you mean 'new'"):
        model.freeze_except_task_embedding("nwe")
    assert model.trainable_parameters() == trained
    model.freeze_except_task_embedding(NEW)
    with pytest.raises(ValueError, match="got 'nwe'"):
        model.freeze_except_task_embedding("nwe")
    assert model.trainable_parameters() == 64 + 2 * 16 + 2, "still the one that was frozen before"


def test_a_table_has_no_embedding():
    model = make_model("bert", generator="table")
    for call in (lambda: model.add_task(NEW, labels=["O"]), lambda: model.freeze_except_task_embedding("a")):
        with pytest.raises(ValueError, match="needs a model with generator='hypernetwork', got 'table'.*of its own"):
            call()
    model.unfreeze()
    assert model.hyperloader_config.tasks == tuple(TASKS)


@each_name
def test_in_inference_mode(name):
    """A task that is added there can be trained outside of it."""
    model = make_model(name, torch.float32)
    before = outputs(model, name, with_new=False)
    with torch.inference_mode():
        model.add_task(NEW, labels=labels_for(name))
        model.freeze_except_task_embedding(NEW)
    train(model, name)
    assert same(before, outputs(model, name, with_new=False))
    with torch.inference_mode():
        model.unfreeze()
    train(model, name)
    assert not same(before, outputs(model, name, with_new=False))


def test_a_task_called_mean_is_not_taken_for_the_mean():
    model = make_model("t5", torch.float32)
    model.add_task("mean", init="a")
    with pytest.raises(ValueError, match="init must not be 'mean', which is a task here"):
        model.add_task(NEW)
    assert model.hyperloader_config.tasks[-1] == "mean"
