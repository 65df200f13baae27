"""TaskHeads: a mixed batch gives what each task's own head gives."""

from types import SimpleNamespace

import pytest
import torch
from helpers.lines import lines_of
from torch import nn

from hyperloader.nn.heads import TaskHeads, head_dropout

LABELS = {"a": ["O", "B-x", "I-x"], "b": ["O"], "c": ["O", "B-y", "I-y", "B-z"]}


def test_mixed_batch_is_every_sentence_with_its_own_head():
    heads = TaskHeads(5, LABELS).double()
    hidden_states = torch.randn(4, 3, 5, dtype=torch.float64)
    tasks = torch.tensor([2, 0, 1, 2])
    logits = heads(hidden_states, tasks)
    assert logits.shape == (4, 3, 4)
    for row, task in enumerate(tasks.tolist()):
        alone = heads(hidden_states[row : row + 1], task)[0]
        torch.testing.assert_close(logits[row, :, : alone.shape[-1]], alone, rtol=0, atol=1e-14)
        assert (logits[row, :, alone.shape[-1] :] == -torch.inf).all()


def test_a_head_begins_with_the_shares_of_its_labels():
    """Those it has not met with one more each, so that none is impossible; the weights stay."""
    heads = TaskHeads(5, LABELS)
    before = [head.weight.clone() for head in heads.heads]
    heads.begin_at([torch.tensor([96, 2, 0]), torch.tensor([7]), torch.tensor([0, 0, 0, 0])])
    shares = [head.bias.softmax(-1) for head in heads.heads]
    torch.testing.assert_close(shares[0], torch.tensor([97, 3, 1]) / 101)
    torch.testing.assert_close(shares[2], torch.full((4,), 0.25))
    assert all(torch.equal(head.weight, weight) for head, weight in zip(heads.heads, before, strict=True))


def test_heads_begin_one_by_one_and_refuse_what_does_not_fit():
    heads = TaskHeads(5, LABELS)
    heads.begin_at([None, None, [1, 1, 5, 1]])
    assert not heads.heads[0].bias.any() and heads.heads[2].bias.argmax() == 2
    before = {name: tensor.clone() for name, tensor in heads.state_dict().items()}
    for counts, message in (
        ([[1, 1, 1], [1]], "counts must be one for each of 3 heads, got 2"),
        ([[1, 1, 1], [1], [1]], r"counts\[2\] must be 4 numbers from 0 on, got \[1\]"),
        ([[1, 1, -1], [1], None], r"counts\[0\] must be 3 numbers from 0 on"),
    ):
        with pytest.raises(ValueError, match=message):
            heads.begin_at(counts)
    assert all(torch.equal(one, before[name]) for name, one in heads.state_dict().items())


def test_gradients_stay_with_the_tasks_of_the_batch():
    heads = TaskHeads(5, LABELS)
    heads(torch.randn(2, 3, 5), torch.tensor([0, 2]))[..., 0].sum().backward()
    assert heads.heads[0].weight.grad.any()
    assert not heads.heads[1].weight.grad.any()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_sentences_of_many_tasks(count):
    """Then each sentence has a product of its own; the numbers and gradients are the same."""
    heads = TaskHeads(5, {str(task): ["O", *(f"B-{kind}" for kind in range(task % 3))] for task in range(20)}).double()
    hidden_states = torch.randn(count, 3, 5, dtype=torch.float64)
    tasks = torch.tensor([7, 19, 7, 8])[:count]
    logits = heads(hidden_states, tasks)
    rows = enumerate(tasks.tolist())
    alone = torch.cat([heads(hidden_states[row, None], task, all_columns=True) for row, task in rows])
    torch.testing.assert_close(logits, alone, rtol=0, atol=1e-14)
    found, expected = (
        torch.autograd.grad(one.clamp(min=-9).square().sum(), heads.parameters()) for one in (logits, alone)
    )
    torch.testing.assert_close(found, expected)


def test_one_task_that_the_host_does_not_know():
    heads = TaskHeads(5, LABELS).double()
    hidden_states = torch.randn(4, 3, 5, dtype=torch.float64)
    for task in range(3):
        expected = heads(hidden_states, task, all_columns=True)
        torch.testing.assert_close(heads(hidden_states, torch.tensor(task)), expected, rtol=0, atol=1e-14)


def test_every_trained_head_takes_part():
    for task in (1, torch.tensor(1), torch.tensor([1, 1])):
        heads = TaskHeads(5, LABELS)
        heads.heads[2].requires_grad_(False)
        heads(torch.randn(2, 3, 5), task).sum().backward()
        assert heads.heads[1].weight.grad.any()
        assert not heads.heads[0].weight.grad.any() and not heads.heads[0].bias.grad.any()
        assert heads.heads[2].weight.grad is None


def test_dropout_is_what_the_backbone_says_about_classifiers_or_about_itself():
    for said, wanted in (
        ({"classifier_dropout": 0.3, "hidden_dropout_prob": 0.1}, 0.3),  # RoBERTa
        ({"classifier_dropout": None, "hidden_dropout_prob": 0.1}, 0.1),
        ({"classifier_dropout_prob": 0.2, "hidden_dropout_prob": 0.0}, 0.2),  # ALBERT
        ({"hidden_dropout_prob": 0.1, "pooler_dropout": 0.4}, 0.1),  # DeBERTa
        ({"dropout_rate": 0.1}, 0.1),  # T5
        ({}, 0.0),
    ):
        assert head_dropout(SimpleNamespace(**said)) == wanted


def test_labels_that_come_together_begin_each_at_its_own_share():
    heads = TaskHeads(5, {"a": ["x", "y"], "b": ["value"]}, kinds={"a": "multi-label", "b": "regression"})
    heads.begin_at([[[8, 0], [0, 2]], None])
    torch.testing.assert_close(heads.heads[0].bias.sigmoid(), torch.tensor([0.9, 0.25]))
    assert not heads.heads[1].bias.any()
    with pytest.raises(ValueError, match=r"counts\[0\] must be 2 numbers"):
        heads.begin_at([[8, 0], None])


def many(count=200):
    torch.manual_seed(0)
    return TaskHeads(5, {str(task): ["O", *(f"B-{kind}" for kind in range(task % 3))] for task in range(count)})


def test_a_batch_takes_the_heads_of_its_tasks_alone():
    """To the bit what it is with all heads, as in training."""
    heads, tasks, hidden_states = many(), torch.tensor([3, 190, 3, 8]), torch.randn(4, 3, 5)
    expected = heads(hidden_states, tasks)
    with torch.no_grad():
        assert torch.equal(heads(hidden_states, tasks), expected)
        one = heads(hidden_states[1:2], torch.tensor(190))
        assert torch.equal(one, heads(hidden_states[1:2], 190, all_columns=True))
    expected.clamp(min=-9).sum().backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())


def test_what_a_batch_reads_does_not_grow_with_the_tasks(monkeypatch):
    few, more, states, tasks = many(), many(600), torch.randn(4, 3, 5), torch.tensor([3, 190, 3, 8])
    read, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda tensors: read.append(len(tensors)) or cat(tensors))
    with torch.no_grad():
        few(states, tasks)
        found = [lines_of(heads, states, tasks) for heads in (few, more)]
    assert set(read) == {3} and found[0] == found[1]


@torch.no_grad()
def test_an_empty_batch_of_many_tasks():
    assert many()(torch.randn(0, 3, 5), torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 3)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_program_takes_other_tasks():
    heads, states = many(), torch.randn(4, 3, 5)
    program = torch.jit.trace(heads, (states, torch.tensor([3, 190, 3, 8])))
    others = torch.tensor([9, 17, 100, 101])
    assert torch.equal(program(states, others), heads(states, others))


def test_a_seed_gives_the_numbers_of_plain_linear_layers():
    torch.manual_seed(3)
    made = [head.state_dict() for head in TaskHeads(5, LABELS).heads]
    after = torch.rand(1)
    torch.manual_seed(3)
    expected = [nn.Linear(5, len(names)) for names in LABELS.values()]
    for head, state in zip(expected, made, strict=True):
        nn.init.normal_(head.weight, 0, 0.02)
        assert torch.equal(state["weight"], head.weight) and not state["bias"].any()
    assert torch.equal(after, torch.rand(1))
