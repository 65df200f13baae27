"""Models with a new task, or frozen but for one: saved, copied, compiled, detached."""

import copy

import pytest
import torch
from helpers import tiny
from helpers.new_task import NEW, each_name, make_new, new_batch, outputs, same, train
from helpers.tiny import make_batch, make_model

from hyperloader import HyperLoaderModel


@each_name
@pytest.mark.parametrize("frozen", [True, False])
def test_round_trip(tmp_path, name, frozen):
    model = make_new(name)
    model.freeze_except_task_embedding(NEW)
    train(model, name)
    if not frozen:
        model.unfreeze()
    model.save_pretrained(tmp_path)
    loaded = HyperLoaderModel.from_pretrained(tmp_path, tiny.make(name))
    assert loaded.hyperloader_config == model.hyperloader_config
    assert same(outputs(model, name), outputs(loaded, name))
    assert torch.equal(model(**new_batch(name), task=NEW).logits, loaded(**new_batch(name), task=NEW).logits)
    assert loaded.trainable_parameters() > 10 * 64


def test_a_frozen_model_loads_what_it_saved():
    model = make_new()
    model.freeze_except_task_embedding(NEW)
    state = copy.deepcopy(model.state_dict())
    assert "task_embedding.row" not in state
    expected = model(**new_batch("bert"), task=NEW).logits
    train(model, "bert")
    assert not torch.equal(model(**new_batch("bert"), task=NEW).logits, expected)
    model.load_state_dict(state)
    assert torch.equal(model(**new_batch("bert"), task=NEW).logits, expected)
    trained = train(model, "bert")(**new_batch("bert"), task=NEW).logits
    model.load_state_dict({}, strict=False)
    assert torch.equal(model(**new_batch("bert"), task=NEW).logits, trained)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*task_embedding.weight"):
        model.load_state_dict({path: value for path, value in state.items() if "embedding.weight" not in path})


def test_a_copy_of_a_frozen_model_is_trained_alone():
    model = make_new()
    model.freeze_except_task_embedding(NEW)
    twin = copy.deepcopy(model)
    before = model(**new_batch("bert"), task=NEW).logits
    train(twin, "bert")
    assert torch.equal(model(**new_batch("bert"), task=NEW).logits, before)
    assert not torch.equal(twin(**new_batch("bert"), task=NEW).logits, before)
    twin.unfreeze()
    assert twin.trainable_parameters() > 10 * 64


def test_a_frozen_model_compiles_without_graph_breaks():
    model, batch = make_new(), make_batch("bert")["input_ids"]
    model.freeze_except_task_embedding(NEW)
    train(model, "bert")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for task in ("a", NEW):
        torch.testing.assert_close(compiled(batch, task=task).logits, model(batch, task=task).logits)


def test_detach_of_a_frozen_model_gives_the_backbone_back():
    backbone = tiny.make("bert")
    backbone.embeddings.requires_grad_(False)
    before = {path: parameter.requires_grad for path, parameter in backbone.named_parameters()}
    model = HyperLoaderModel(backbone, make_model("bert").hyperloader_config)
    model.freeze_except_task_embedding("a")
    model.detach()
    assert {path: parameter.requires_grad for path, parameter in backbone.named_parameters()} == before
    for call in (lambda: model.add_task(NEW), lambda: model.freeze_except_task_embedding("a"), model.unfreeze):
        with pytest.raises(RuntimeError, match=r"no backbone since detach\(\)"):
            call()


@each_name
def test_a_step_that_would_train_nothing_is_refused(name):
    model = make_new(name)
    model.freeze_except_task_embedding(NEW)
    new, batch = model.hyperloader_config.task_id(NEW), make_batch(name)
    batch["labels"] = torch.zeros_like(batch["labels"])  # which every task has
    model.train()
    for options in ({"task": "a"}, {"task_ids": torch.tensor([0, 1, 2, 0, 1])}):
        with pytest.raises(ValueError, match=f"a batch to train on must hold the task {NEW!r}, the only one"):
            model(**batch, **options)
        with torch.no_grad():
            model(**batch, **options)
        model.eval()
        model(**batch, **options)
        model.train()
    model(**new_batch(name), task=NEW)
    model(**new_batch(name), task_ids=torch.full((5,), new))
    model.unfreeze()
    model(**batch, task="a")


def test_a_state_that_does_not_fit_is_refused():
    """A checkpoint from before ``add_task``, say: nothing of it is loaded."""
    model = make_model("bert")
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    state = {name: value + 1 for name, value in before.items()}
    name = "task_embedding.weight"
    for changed, message in (
        (
            {**state, name: state[name][:2]},
            r"this state: task_embedding.weight must have shape \(3, 64\), got \(2, 64\)",
        ),
        (
            {key: value for key, value in state.items() if key != name},
            f"this state: tensors missing: {name}; extra: none",
        ),
        ({**state, "x": state[name]}, "this state: tensors missing: none; extra: x"),
    ):
        with pytest.raises(ValueError, match=message):
            model.load_trainable_state(changed)
    assert all(torch.equal(value, before[key]) for key, value in model.trainable_state().items())
    model.load_trainable_state(state)
    assert all(torch.equal(value, state[key]) for key, value in model.trainable_state().items())
