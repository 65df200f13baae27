"""``config.sparse_gradients``: what a step ends as, and that it costs what its batch costs."""

import dataclasses

import pytest
import torch
from helpers import tiny
from helpers.costs import cost_of
from helpers.lines import lines_of
from helpers.tiny import TASK_IDS, make_batch, make_model
from torch import nn

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.optim import RowAdamW, clip_grad_norm_

OPTIONS = {"lr": 0.05, "eps": 1e-3, "weight_decay": 0.3}
BATCHES = [{"task_ids": torch.tensor(ids)} for ids in ([0, 2, 2, 0, 2], [1, 1, 2, 1, 1], [2, 2, 2, 2, 2])]
BATCHES += [{"task": "a"}, {"task_ids": TASK_IDS}]


def pair(**options):
    sparse = make_model("bert", sparse_gradients=True, **options).train()
    dense = make_model("bert", **options).train()
    dense.load_trainable_state(sparse.trainable_state())
    return dense, sparse


def batch_of(selected):
    """With labels that every task has."""
    batch = make_batch("bert")
    return batch | selected | {"labels": torch.zeros_like(batch["labels"])}


def step_of_rows(model, rows, optimizer, selected):
    """A step of the dense model after which nothing of tasks outside of the batch has moved."""
    embedding = model.task_embedding.weight
    optimizer.zero_grad()
    embedding.grad = None
    model(**batch_of(selected)).loss.backward()
    met = [tiny.TASKS.index(selected["task"])] if "task" in selected else selected["task_ids"].tolist()
    for task, (row, head) in enumerate(zip(rows, model.heads.heads, strict=True)):
        row.grad = embedding.grad[task : task + 1] if task in met else None
        if task not in met:
            head.zero_grad()
    optimizer.step()
    with torch.no_grad():
        embedding.copy_(torch.cat(rows))


def test_steps_are_those_of_the_batch_s_tasks_alone():
    dense, sparse = pair()
    embedding = dense.task_embedding.weight
    rows = [nn.Parameter(row.detach()[None].clone()) for row in embedding]
    others = [one for one in dense.parameters() if one.requires_grad and one is not embedding]
    reference = torch.optim.AdamW([*others, *rows], **OPTIONS)
    optimizer = RowAdamW([one for one in sparse.parameters() if one.requires_grad], **OPTIONS)
    for selected in BATCHES:
        step_of_rows(dense, rows, reference, selected)
        optimizer.zero_grad()
        sparse(**batch_of(selected)).loss.backward()
        optimizer.step()
        assert sparse.task_embedding.weight.grad.is_sparse
        expected = dense.trainable_state()
        for name, tensor in sparse.trainable_state().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-11, msg=name)
    assert sparse.trainable_state().keys() == expected.keys()


def many(count):
    """A model of so many tasks and its optimizer, after a step."""
    tasks = [f"t{number}" for number in range(count)]
    labels = {task: ["O", "B-x", "I-x"][: 2 + number % 2] for number, task in enumerate(tasks)}
    config = HyperLoaderConfig(tasks=tasks, labels=labels, reduction_factor=4, rank=2, sparse_gradients=True)
    model = HyperLoaderModel(tiny.make("bert"), config).train()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = RowAdamW(trained, fused=True)
    step(model, trained, optimizer, {"task_ids": torch.arange(5) * 3})
    return model, trained, optimizer


def step(model, trained, optimizer, selected):
    model(**batch_of(selected)).loss.backward()
    clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("selected", [{"task": "t3"}, {"task_ids": torch.tensor([0, 2, 1, 0, 69])}], ids=str)
def test_a_step_costs_what_its_batch_costs(selected):
    """Operators, bytes of what they make and lines of Python, none of them more with six times as many tasks."""
    few, large = many(70), many(420)
    assert len(few[1]) == len(large[1])
    found = [cost_of(lambda one=one: step(*one, selected)) for one in (few, large)]
    assert found[0] == found[1]
    assert found[0].operators > 100 and found[0].num_bytes > 1000
    lines = [lines_of(step, *one, selected) for one in (few, large)]
    assert lines[1] <= lines[0] + 20


def test_saved_alike(tmp_path):
    dense, sparse = pair()
    for name, model in (("dense", dense), ("sparse", sparse)):
        model.save_pretrained(tmp_path / name)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("dense", "sparse")]
    assert files[0] == files[1]
    again = HyperLoaderModel.from_pretrained(tmp_path / "sparse", tiny.make("bert", torch.float64))
    assert again.hyperloader_config.sparse_gradients and len(list(again.heads.parameters())) == 2
    logits = [tiny.logits(model.eval(), "bert", task_ids=TASK_IDS) for model in (dense, sparse, again)]
    torch.testing.assert_close(logits[0], logits[1])
    assert torch.equal(logits[1], logits[2])
    dense.export_task("a", tmp_path / "one")
    sparse.export_task("a", tmp_path / "other")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert files[0] == files[1]
    torch.testing.assert_close(tiny.logits(sparse.merge("a"), "bert"), tiny.logits(dense.merge("a"), "bert"))


def test_float64_heads_are_loaded_as_such(tmp_path):
    pair()[1].save_pretrained(tmp_path)
    again = HyperLoaderModel.from_pretrained(tmp_path, tiny.make("bert"))
    assert {one.dtype for one in again.heads.parameters()} == {torch.float64}


def test_a_new_task_alone():
    sparse = pair()[1]
    sparse.add_task("new", labels=["O", "B-n"])
    sparse.freeze_except_task_embedding("new")
    before = {name: tensor.clone() for name, tensor in sparse.trainable_state().items()}
    trained = [one for one in sparse.parameters() if one.requires_grad]
    assert sum(one.numel() for one in trained) == 64 + 2 * 17
    optimizer = torch.optim.AdamW(trained, **OPTIONS)  # nothing is sparse here
    for selected in ({"task": "new"}, {"task_ids": torch.tensor([0, 3, 1, 3, 2])}):
        optimizer.zero_grad()
        sparse(**batch_of(selected)).loss.backward()
        optimizer.step()
    moved = {name for name, tensor in sparse.trainable_state().items() if not torch.equal(tensor, before[name])}
    assert moved == {"task_embedding.weight", "heads.heads.3.weight", "heads.heads.3.bias"}
    rows = (sparse.trainable_state()["task_embedding.weight"] != before["task_embedding.weight"]).any(1)
    assert rows.tolist() == [False, False, False, True]
    sparse.unfreeze()
    sparse(**batch_of({"task": "new"})).loss.backward()
    assert sparse.task_embedding.weight.grad.is_sparse and sparse.heads.rows.weight.grad.is_sparse


@pytest.mark.slow
def test_compiled():
    sparse = pair()[1]
    compiled = torch.compile(sparse, backend="aot_eager", dynamic=True)
    for selected in BATCHES[:2]:
        found = []
        for model in (sparse, compiled):
            sparse.zero_grad()
            model(**batch_of(selected)).loss.backward()
            found.append({name: one.grad.to_dense() for name, one in sparse.named_parameters() if one.requires_grad})
        for name, grad in found[0].items():
            torch.testing.assert_close(found[1][name], grad, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "table"}, "sparse_gradients must be False with generator 'table'"),
        ({"task_condition": "description", "descriptions": {"a": "x"}}, "sparse_gradients must be False with task_con"),
        ({"sparse_gradients": 1}, "sparse_gradients must be True or False, got 1"),
    ],
)
def test_where_it_cannot_be(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        HyperLoaderConfig(tasks=["a"], **{"sparse_gradients": True} | options)


def test_a_config_may_change_it():
    dense, sparse = pair()
    assert dataclasses.replace(dense.hyperloader_config, sparse_gradients=True) == sparse.hyperloader_config
