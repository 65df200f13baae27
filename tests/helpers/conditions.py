"""Inputs of ops.condition, the call, and the plain formula, written without any of its shortcuts."""

import torch
from torch.nn import functional

from hyperloader import ops

SCALES, EPS = (0.5, 0.25, 3.0), 1e-6

NAMES = (
    "task_embedding", "layer_embedding", "position_embedding", "first_weight", "first_bias", "second_weight",
    "second_bias", "norm_weight", "norm_bias",
)  # fmt: skip

LAYERS, POSITIONS = torch.tensor([1, 3, 2]), torch.tensor([4, 0])


def make_tensors(tasks=5, size=6, hidden=11, condition_dim=7, dtype=torch.float32):
    shapes = [
        (tasks, size), (4, size), (6, size), (hidden, 3 * size), (hidden,), (condition_dim, hidden),
        (condition_dim,), (condition_dim,), (condition_dim,),
    ]  # fmt: skip
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def call(task, layer, position, *parameters, layers=LAYERS, positions=POSITIONS, scales=SCALES, eps=EPS):
    indices = (layers.to(task.device), positions.to(task.device))
    return ops.condition(task, layer, position, *indices, *parameters, scales=scales, eps=eps)


def plain(task, layer, position, first_weight, first_bias, second_weight, second_bias, norm_weight, norm_bias):
    rows = [
        torch.cat([t, layer[index], position[other]])
        for other in POSITIONS.tolist()
        for index in LAYERS.tolist()
        for t in task
    ]
    inputs = torch.stack(rows) if rows else task.new_zeros(0, first_weight.shape[1])
    hidden = functional.relu(SCALES[0] * functional.linear(inputs, first_weight) + first_bias)
    before = SCALES[1] * functional.linear(hidden, second_weight) + second_bias
    condition = SCALES[2] * functional.layer_norm(before, before.shape[-1:], norm_weight, norm_bias, EPS)
    return condition.view(len(POSITIONS), len(LAYERS), task.shape[0], -1)
