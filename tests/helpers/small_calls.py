"""One call of every operator, forward and backward, at sizes off every tile: for compute-sanitizer, which is slow."""

import torch
from helpers.cases import NORMS, adapter_inputs, lora_inputs

from hyperloader import ops


def backward_of(result: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    """Compute the gradients, too."""
    torch.autograd.grad(result.float().square().sum(), inputs)


def main() -> None:
    """Run all of them on the default device."""
    for dtype in (torch.float32, torch.bfloat16):
        for groups in (None, 2):
            for norm in NORMS:
                inputs = adapter_inputs(3, 19, 71, 5, groups, norm, dtype)
                leaves = [tensor.requires_grad_() for name, tensor in inputs.items() if name != "group"]
                backward_of(ops.adapter(**inputs, norm=norm), leaves)
            inputs = lora_inputs(3, 19, 71, 45, 3, groups, dtype)
            leaves = [tensor.requires_grad_() for name, tensor in inputs.items() if name != "group"]
            backward_of(ops.lora_linear(**inputs), leaves)
        condition = torch.randn(37, 30, dtype=dtype, requires_grad=True)
        heads = [torch.randn(size, 30, dtype=dtype, requires_grad=True) for size in (70, 1, 130)]
        biases = [torch.randn(size, dtype=dtype, requires_grad=True) for size in (70, 1, 130)]
        backward_of(torch.cat(ops.generate(condition, heads, biases), 1), [condition, *heads, *biases])
    shapes = [(5, 6), (4, 6), (6, 6), (11, 18), (11,), (7, 11), (7,), (7,), (7,)]
    task, layer, position, *parameters = (torch.randn(shape, requires_grad=True) for shape in shapes)
    conditions = ops.condition(task, layer, position, torch.tensor([1, 3, 2]), torch.tensor([4, 0]), *parameters)
    backward_of(conditions, [task, layer, position, *parameters])


if __name__ == "__main__":
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    with ops.use_backend("native"):
        main()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
