"""Tensors without elements: a dimension of none is computed like any other number, or refused by all backends alike."""

import pytest
import torch
from helpers.conditions import call as call_condition
from helpers.conditions import make_tensors
from torch.nn import functional

from hyperloader import ops


def differentiated(function, tensors):
    """Results of ``function``, a list, and the gradients of their sum; all of them finite."""
    leaves = [tensor.requires_grad_() for tensor in tensors]
    results = function(*leaves)
    grads = torch.autograd.grad(sum(result.sum() for result in results), leaves, allow_unused=True)
    found = [grad if grad is not None else torch.zeros_like(leaf) for grad, leaf in zip(grads, leaves, strict=True)]
    assert all(tensor.isfinite().all() for tensor in (*results, *found))
    assert [grad.shape for grad in found] == [leaf.shape for leaf in leaves]
    return [result.detach() for result in results], found


@pytest.mark.parametrize("groups", [None, 2, 0], ids=["single", "mixed", "no groups"])
@pytest.mark.parametrize("size", [(2, 3), (0, 3), (2, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("features", [(0, 5), (5, 0), (0, 0), (5, 4)], ids=str)
def test_lora_linears(backend, groups, size, features):
    batch, tokens = size
    if groups == 0 and batch:
        pytest.skip("a sentence needs a group")
    in_features, out_features = features
    stacked = () if groups is None else (groups,)
    shapes = [(*size, in_features), (out_features, in_features), (out_features,)]
    shapes += [(*stacked, 2, in_features), (*stacked, out_features, 2)]
    tensors = [torch.randn(shape) for shape in shapes]
    group = None if groups is None else torch.randint(max(groups, 1), (batch,))

    def call(x, weight, bias, lora_A, lora_B):
        alone = ops.lora_linear(x, weight, bias, lora_A, lora_B, group=group)
        return [alone, *ops.lora_linears(x, *([one, one] for one in (weight, bias, lora_A, lora_B)), group=group)]

    results, grads = differentiated(call, tensors)
    assert {tuple(y.shape) for y in results} == {(*size, out_features)}
    if in_features == 0 or 0 in size:
        for y in results:
            torch.testing.assert_close(y, tensors[2].detach().expand(y.shape))
    torch.testing.assert_close(grads[2], torch.full((out_features,), 3.0 * batch * tokens))


@pytest.mark.parametrize("norm", ["post", "none"])
@pytest.mark.parametrize("size", [(2, 3), (0, 3), (2, 0)], ids=str)
def test_adapter_without_hidden_units(backend, norm, size):
    """A norm of nothing has no mean: refused before anything is computed."""
    shapes = [(*size, 0), (4, 0), (4,), (0, 4), (0,), *[(0,)] * (2 if norm == "post" else 0)]
    with pytest.raises(ValueError, match="x must have at least one hidden unit, got 0"):
        ops.adapter(*(torch.zeros(shape) for shape in shapes), norm=norm)


@pytest.mark.parametrize("norm", ["post", "pre", "none"])
@pytest.mark.parametrize("groups", [None, 2, 0], ids=["single", "mixed", "no groups"])
def test_adapter_without_tokens(backend, norm, groups):
    for size in ((0, 3), (0, 0)) if groups == 0 else ((0, 3), (2, 0), (0, 0)):
        stacked = () if groups is None else (groups,)
        shapes = [(*size, 5), *((*stacked, *shape) for shape in ((4, 5), (4,), (5, 4), (5,)))]
        shapes += [(*stacked, 5)] * (0 if norm == "none" else 2)
        group = None if groups is None else torch.zeros(size[0], dtype=torch.int64)
        results, grads = differentiated(
            lambda *tensors, group=group: [ops.adapter(*tensors, group=group, norm=norm)],
            [torch.randn(shape) for shape in shapes],
        )
        assert results[0].shape == (*size, 5)
        assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize(("rows", "dim", "sizes"), [(0, 4, (3, 2)), (3, 0, (3, 2)), (3, 4, (0, 2)), (0, 0, (0, 1))])
def test_generate(backend, rows, dim, sizes):
    tensors = [torch.randn(rows, dim), *(torch.randn(size, dim) for size in sizes), torch.randn(sizes[0])]
    results, grads = differentiated(lambda rows, one, two, bias: ops.generate(rows, [one, two], [bias, None]), tensors)
    for result, weight, bias in zip(results, tensors[1:3], (tensors[3], None), strict=True):
        torch.testing.assert_close(result, functional.linear(tensors[0], weight, bias).detach())
    torch.testing.assert_close(grads[3], torch.full((sizes[0],), float(rows)))


def test_generate_without_heads(backend):
    assert ops.generate(torch.randn(3, 4), [], []) == []


@pytest.mark.parametrize("none", ["tasks", "size", "hidden", "condition_dim"])
def test_condition(backend, none):
    results, _ = differentiated(lambda *tensors: [call_condition(*tensors)], make_tensors(**{none: 0}))
    assert results[0].shape == (2, 3, 0 if none == "tasks" else 5, 0 if none == "condition_dim" else 7)


def test_condition_without_layers_or_positions(backend):
    tensors, none, one = make_tensors(), torch.zeros(0, dtype=torch.int64), torch.tensor([1])
    for layers, positions, shape in ((none, one, (1, 0, 5, 7)), (one, none, (0, 1, 5, 7))):
        results, grads = differentiated(
            lambda *tensors, layers=layers, positions=positions: [
                call_condition(*tensors, layers=layers, positions=positions)
            ],
            tensors,
        )
        assert results[0].shape == shape
        assert not any(grad.any() for grad in grads)
