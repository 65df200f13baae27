"""Heads as two tensors against one ``nn.Linear`` a task."""

import copy

import pytest
import torch
from torch import nn

from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.packed_heads import PackedHeads

LABELS = {"a": "OBI", "b": "x", "c": "OBIXY", "d": "12"}
KINDS = {"b": "regression", "d": "multi-label"}


def pair():
    torch.manual_seed(0)
    plain, packed = (kind(6, LABELS, 0.0, KINDS).double() for kind in (TaskHeads, PackedHeads))
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    packed.load_state_dict(plain.state_dict())
    return plain, packed


@pytest.mark.parametrize("task_ids", [0, 1, 2, [0, 3, 2, 0], [1, 1, 1, 1], [2, 1, 3, 0]], ids=str)
@pytest.mark.parametrize("all_columns", [False, True])
def test_logits_and_gradients(task_ids, all_columns):
    plain, packed = pair()
    states, mask = torch.randn(4, 3, 6, dtype=torch.float64), torch.tensor([[1, 1, 0]] * 4)
    ids = task_ids if isinstance(task_ids, int) else torch.tensor(task_ids)
    outputs = [heads(states, ids, all_columns, mask) for heads in (plain, packed)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.masked_fill(output.isinf(), 0).sin().sum().backward()
    rows, biases = packed.rows.weight.grad, packed.biases.weight.grad
    torch.testing.assert_close(rows.to_dense(), torch.cat([head.weight.grad for head in plain.heads]))
    torch.testing.assert_close(biases.to_dense()[:, 0], torch.cat([head.bias.grad for head in plain.heads]))
    met = {task_ids} if isinstance(task_ids, int) else set(task_ids)
    own = [sum(map(len, list(LABELS.values())[:task])) + label for task in met for label in range(plain.size_of(task))]
    for grad in (rows, biases):
        assert grad.coalesce().indices()[0].tolist() == sorted(own)


def test_state_has_the_names_of_other_heads():
    plain, packed = pair()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(packed.state_dict()[name], tensor)
    assert sorted(packed.state_dict()) == sorted(plain.state_dict())
    again = pair()[0]
    again.load_state_dict(packed.state_dict())
    copied = copy.deepcopy(packed)
    with torch.no_grad():
        copied.rows.weight.zero_()
    assert torch.equal(again.heads[2].weight, packed.own_rows(2)[0]) and packed.rows.weight.any()


def test_states_that_do_not_fit():
    plain, packed = pair()
    before = copy.deepcopy(packed.state_dict())
    state = plain.state_dict()
    state["heads.1.weight"] = state["heads.1.weight"][:, :2]
    with pytest.raises(RuntimeError, match=r"size mismatch for heads.1.weight: \(1, 2\) given, \(1, 6\) here"):
        packed.load_state_dict(state)
    state = {"heads.0.bias": torch.ones(3), "heads.7.bias": torch.ones(3)}
    found = packed.load_state_dict(state, strict=False)
    assert "heads.0.weight" in found.missing_keys and "heads.0.bias" not in found.missing_keys
    assert found.unexpected_keys == ["heads.7.bias"] and len(found.missing_keys) == 7
    after = packed.state_dict()
    assert after.pop("heads.0.bias").tolist() == [1, 1, 1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_one_more_head_and_one_alone():
    plain, packed = pair()
    head = packed.new_head(4)
    assert head.weight.dtype == torch.float64
    for heads in (plain, packed):
        heads.append(copy.deepcopy(head), "classification")
    states = torch.randn(3, 2, 6, dtype=torch.float64)
    ids = torch.tensor([4, 0, 2])
    torch.testing.assert_close(plain(states, ids), packed(states, ids))
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, packed.get_buffer(name))
    generator = torch.random.get_rng_state()
    one, two = plain.of(3), packed.of(3)
    assert torch.equal(torch.random.get_rng_state(), generator) and type(two) is TaskHeads
    torch.testing.assert_close(one(states, 0), two(states, 0))
    assert (two.kinds, len(packed.kinds)) == (["multi-label"], 5)


def test_rows_of_one_task_alone_are_trained():
    _, packed = pair()
    packed.requires_grad_(False)
    packed.train_only(2)
    assert [name for name, one in packed.named_parameters() if one.requires_grad] == ["rows.row", "biases.row"]
    before = copy.deepcopy(packed.state_dict())
    states = torch.randn(3, 2, 6, dtype=torch.float64)
    optimizer = torch.optim.SGD([one for one in packed.parameters() if one.requires_grad], lr=0.1)
    logits = packed(states, torch.tensor([2, 0, 2]))
    logits.masked_fill(logits.isinf(), 0).sum().backward()
    optimizer.step()
    after = packed.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"heads.2.weight", "heads.2.bias"}
    own, whole = packed(states, 2), packed(states, torch.tensor([2, 0, 2]))
    torch.testing.assert_close(whole[0], own[0])
    packed.train_all()
    torch.testing.assert_close(packed(states, 2), own)
    assert not any("row" in name.split(".") for name, _ in packed.named_parameters())


def test_begin_at_shares():
    plain, packed = pair()
    counts = [[5, 2, 1], None, [9, 1, 1, 0, 0], [[3, 4], [1, 0]]]
    for heads in (plain, packed):
        heads.begin_at(counts)
    assert all(torch.equal(packed.state_dict()[name], one) for name, one in plain.state_dict().items())


@pytest.mark.parametrize("hidden", [6, 48])  # some of PyTorch's draws come in sixteens
def test_a_seed_begins_at_the_same_heads(hidden):
    found = []
    for kind in (TaskHeads, PackedHeads):
        torch.manual_seed(5)
        found.append((kind(hidden, LABELS, 0.0, KINDS).state_dict(), torch.rand(3)))
    for name, tensor in found[0][0].items():
        assert torch.equal(found[1][0][name], tensor), name
    assert torch.equal(found[1][1], found[0][1])  # and what is drawn next
