"""The operators alone: eight tasks' adapters and LoRA updates on one batch, by the fastest backend and the reference.

python examples/operators.py
"""

import torch

from hyperloader import ops, use_backend

torch.manual_seed(0)
tasks, sentences, tokens, hidden, bottleneck, rank = 8, 16, 32, 256, 16, 8
x = torch.randn(sentences, tokens, hidden)
group = torch.arange(sentences) % tasks  # the task of every sentence

adapters = [torch.randn(tasks, *shape) / 16 for shape in ((bottleneck, hidden), (bottleneck,), (hidden, bottleneck))]
adapters += [torch.randn(tasks, hidden) / 16 for _ in range(3)]  # up_bias, norm_weight, norm_bias
weight, bias = torch.randn(hidden, hidden) / 16, torch.randn(hidden)
lora_A, lora_B = torch.randn(tasks, rank, hidden) / 16, torch.randn(tasks, hidden, rank) / 16


def run() -> torch.Tensor:
    """A projection with LoRA, and an adapter behind it."""
    return ops.adapter(ops.lora_linear(x, weight, bias, lora_A, lora_B, group=group), *adapters, group=group)


fast = run()
with use_backend("reference"):
    exact = run()
print(f"{tuple(fast.shape)}: the two differ by {(fast - exact).abs().max():.1e}")
