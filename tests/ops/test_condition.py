"""ops.condition: every backend against the plain formula, written without any of its shortcuts."""

import pytest
import torch
from helpers.conditions import EPS, LAYERS, NAMES, POSITIONS, SCALES, call, make_tensors, plain
from helpers.oracle import assert_as_accurate, value_and_gradients

from hyperloader import ops


@pytest.mark.parametrize("tasks", [5, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_value_and_gradients(backend, tasks, dtype):
    tensors = make_tensors(tasks, dtype=dtype)
    grad = torch.randn(2, 3, tasks, 7)
    oracle = value_and_gradients(plain, [tensor.double() for tensor in tensors], grad)
    eager = value_and_gradients(plain, tensors, grad)
    actual = value_and_gradients(call, tensors, grad)
    for name, *triple in zip(("condition", *NAMES), actual, eager, oracle, strict=True):
        assert_as_accurate(*triple, name)


def test_without_tasks(backend):
    tensors = make_tensors(0)
    actual = value_and_gradients(call, tensors, torch.zeros(2, 3, 0, 7))
    assert actual[0].shape == (2, 3, 0, 7)
    assert all((gradient == 0).all() for gradient in actual[1:])


@pytest.mark.computes(torch.float64)
def test_gradcheck(backend):
    tensors = [tensor.requires_grad_() for tensor in make_tensors(2, 3, 5, 4, torch.float64)]
    assert torch.autograd.gradcheck(call, tensors)


@pytest.mark.computes(torch.float64)
def test_a_row_used_twice_gets_both_gradients(backend):
    tensors = make_tensors(2, dtype=torch.float64)
    layer = tensors[1].requires_grad_()
    twice = call(tensors[0], layer, *tensors[2:], layers=torch.tensor([2, 2])).square().sum()
    once = call(tensors[0], layer, *tensors[2:], layers=torch.tensor([2])).square().sum()
    (of_twice,), (of_once,) = (torch.autograd.grad(value, layer) for value in (twice, once))
    torch.testing.assert_close(of_twice, 2 * of_once)
    assert not of_once[[0, 1, 3]].any()


def test_opcheck(operators):
    task, layer, position, *parameters = (tensor.requires_grad_() for tensor in make_tensors(2))
    indices = (LAYERS.to(task.device), POSITIONS.to(task.device))
    arguments = (task, layer, position, *indices, *parameters, list(SCALES), EPS)
    torch.library.opcheck(operators.condition.default, arguments)


def test_compiles_without_graph_breaks(backend):
    # A function of its own: a compilation that failed elsewhere would have PyTorch skip `call` from then on.
    compiled = torch.compile(lambda *tensors: call(*tensors), fullgraph=True, dynamic=True, backend="aot_eager")
    for tasks in (2, 3):
        tensors = make_tensors(tasks)
        torch.testing.assert_close(compiled(*tensors), call(*tensors))


def test_autocast_does_not_reach_it(backend):
    tensors = make_tensors()
    with torch.autocast("cpu", torch.bfloat16):
        inside = call(*tensors)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, call(*tensors), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"task_embedding": torch.zeros(6)}, ValueError, "task_embedding must have 2 dimensions, got 1"),
        ({"task_embedding": torch.zeros(2, 6).long()}, TypeError, "task_embedding must be a floating tensor, got"),
        (
            {"layer_embedding": torch.zeros(4, 5)},
            ValueError,
            r"layer_embedding must have shape \(any, 6\), got \(4, 5\)",
        ),
        ({"position_embedding": torch.zeros(6).double()}, ValueError, r"position_embedding must have shape \(any, 6\)"),
        (
            {"first_weight": torch.zeros(11, 6)},
            ValueError,
            r"first_weight must have shape \(hidden, 18\), got \(11, 6\)",
        ),
        ({"first_bias": torch.zeros(7)}, ValueError, r"first_bias must have shape \(11,\), got \(7,\)"),
        ({"second_weight": torch.zeros(7, 6)}, ValueError, r"second_weight must have shape \(condition_dim, 11\)"),
        ({"norm_bias": torch.zeros(7).double()}, TypeError, "norm_bias must be torch.float32, got torch.float64"),
        ({"layers": torch.tensor([0, 4])}, IndexError, "layers must be from 0 to 3, got 4"),
        ({"positions": torch.tensor([-1])}, IndexError, "positions must be from 0 to 5, got -1"),
        ({"positions": torch.tensor([[1]])}, ValueError, "positions must have 1 dimension, got 2"),
        ({"layers": torch.tensor([0.0])}, TypeError, "layers must be torch.int64, got torch.float32"),
        ({"scales": (1.0, 1.0)}, ValueError, "scales must have 3 entries, got 2"),
        ({"eps": -1.0}, ValueError, "eps must be at least 0, got -1"),
    ],
    ids=str,
)
def test_rejects(backend, change, error, message):
    arguments = dict(zip(NAMES, make_tensors(), strict=True))
    with pytest.raises(error, match=message):
        ops.condition(**{"layers": LAYERS, "positions": POSITIONS, **arguments} | change)
