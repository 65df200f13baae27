"""Plain PyTorch, written with care: everything batched, nothing fused, gradients by autograd."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.nn.hypernetwork import Hypernetwork
from hyperloader.nn.layout import Part


def adapter(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    group: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``x + LayerNorm(up · gelu_new(down · x))``; with ``group`` every sentence of ``x`` gathers its own weights."""
    if group is None:
        a = functional.gelu(functional.linear(x, down_weight, down_bias), approximate="tanh")
        v = functional.linear(a, up_weight, up_bias)
        return x + functional.layer_norm(v, v.shape[-1:], norm_weight, norm_bias, eps)
    down, up = down_weight[group], up_weight[group]  # (batch, ..., ...)
    a = functional.gelu(torch.baddbmm(down_bias[group][:, None], x, down.mT), approximate="tanh")
    v = torch.baddbmm(up_bias[group][:, None], a, up.mT)
    standard = functional.layer_norm(v, v.shape[-1:], eps=eps)
    return x + standard * norm_weight[group][:, None] + norm_bias[group][:, None]


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor, group: Tensor | None = None
) -> Tensor:
    """A frozen linear layer and a LoRA update of scaling 1; with ``group`` one update per sentence."""
    frozen = functional.linear(x, weight, bias)
    if group is None:
        return frozen + functional.linear(functional.linear(x, lora_A), lora_B)
    return frozen + (x @ lora_A[group].mT) @ lora_B[group].mT


class PlainHypernetwork(nn.Module):
    """Generates all weights of a stack at once: one batched condition, one product per head.

    Holds the parameters of ``ours``, a hypernetwork of the published initialisation.
    """

    def __init__(self, ours: Hypernetwork):
        super().__init__()
        self.condition, self.heads = ours.condition, ours.heads
        self.layout = ours.layout

    def forward(self, task_embedding: Tensor, grouped: bool = False) -> dict[tuple[int, str], tuple[Tensor, ...]]:
        """Weights of every (layer, site) for ``task_embedding`` (tasks, task_embedding_dim); see ``Hypernetwork``."""
        layout, own = self.layout, self.condition
        layer = own.layer_embedding.weight[None, :, None]
        position = own.position_embedding.weight[layout.positions][:, None, None]
        shape = (len(layout.positions), layout.num_layers, len(task_embedding), -1)
        inputs = [task_embedding[None, None].expand(shape), layer.expand(shape), position.expand(shape)]
        condition = own.norm(own.second(own.first(torch.cat(inputs, -1)).relu()))
        found, first = {}, 0
        for part in layout.parts:
            found |= self._generate(condition[first : first + len(part.sites)], part, grouped)
            first += len(part.sites)
        return found

    def _generate(self, condition: Tensor, part: Part, grouped: bool):
        by_head = []
        for weight, shape in part.shapes.items():
            generated = self.heads[part.heads[weight]](condition)  # (sites, layers, tasks, n)
            rows = generated.flatten(0, 1) if grouped else generated.flatten(0, 2)
            by_head.append(rows.view(*rows.shape[:-1], *shape).unbind(0))
        return dict(zip(self.layout.sites_of(part), zip(*by_head, strict=True), strict=True))
