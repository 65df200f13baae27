"""Arguments of every operator and its backward, also transposed in memory."""

import torch
from helpers.cases import adapter_inputs, lora_inputs
from helpers.conditions import EPS, LAYERS, POSITIONS, SCALES, make_tensors


def turned(tensor):
    """The same numbers, the last two dimensions swapped in memory."""
    return tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor


def adapter():
    inputs = [turned(tensor) for tensor in adapter_inputs(2, 3, 8, 4, None, "post", torch.float32).values()]
    return [*inputs, None, None, None, "post", "gelu", 1e-5]


def adapter_backward():
    x, *rest = adapter()
    return [torch.randn(3, 2, 8).transpose(0, 1), x, torch.randn(2, 3, 4), *rest]


def lora_linears(dtype=torch.float32):
    layers = [lora_inputs(2, 3, 8, *sizes, None, dtype) for sizes in ((6, 4), (5, 2))]
    names = ("weight", "bias", "lora_A", "lora_B")
    return [turned(layers[0]["x"]), *([turned(layer[name]) for layer in layers] for name in names), None, 0.5]


def lora_linears_backward():
    x, weights, _, *rest = lora_linears(torch.bfloat16)
    return [[torch.randn(2, 3, n).bfloat16() for n in (6, 5)], x, weights, *rest, [True] * 5]


def generate():
    return [torch.randn(3, 5), [turned(torch.randn(4, 5)), turned(torch.randn(7, 5))], [torch.randn(7)], [False, True]]


def generate_backward():
    condition, weights, _, has_bias = generate()
    return [[torch.randn(3, 4), torch.randn(3, 7)], turned(condition), weights, has_bias]


def condition():
    task, layer, position, *parameters = (turned(tensor) for tensor in make_tensors(2))
    indices = [LAYERS.to(task.device), POSITIONS.to(task.device)]
    return [task, layer, position, *indices, *parameters, list(SCALES), EPS]


def condition_backward():
    return [torch.randn(2, 3, 2, 7), *condition()]


CASES = {
    "adapter": adapter,
    "adapter_backward": adapter_backward,
    "lora_linears": lora_linears,
    "lora_linears_backward": lora_linears_backward,
    "generate": lambda: [*generate(), None],
    "generate_backward": generate_backward,
    "condition": condition,
    "condition_backward": condition_backward,
}
