"""The published implementation's way, written after section 4 of the specification.

Every weight tensor is generated on its own, layer by layer, in every forward pass of the backbone, and applied by plain
modules at each site.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.config import POSITIONS
from hyperloader.nn.hypernetwork import Hypernetwork
from hyperloader.nn.layout import Part


class PublishedHypernetwork(nn.Module):
    """The hypernetwork of one stack, asked for one layer at a time. Holds the parameters of ``ours``."""

    def __init__(self, ours: Hypernetwork):
        super().__init__()
        self.layer_id_embeddings = ours.condition.layer_embedding
        self.adapters_block_type = ours.condition.position_embedding
        self.task_hypernet = nn.Sequential(ours.condition.first, nn.ReLU(), ours.condition.second)
        self.norm = ours.condition.norm
        self.heads = ours.heads
        self.layout = ours.layout

    def forward(self, task_embedding: Tensor, layer_id: int) -> dict[str, tuple[Tensor, ...]]:
        """Weights of every site of one layer for one ``task_embedding`` (task_embedding_dim,)."""
        return {site: self._weights(task_embedding, layer_id, site, part)
                for part in self.layout.parts for site in part.sites}  # fmt: skip

    def _weights(self, task_embedding: Tensor, layer_id: int, site: str, part: Part) -> tuple[Tensor, ...]:
        condition = self._condition(task_embedding, layer_id, POSITIONS[site])
        return tuple(self.heads[part.heads[weight]](condition).view(shape) for weight, shape in part.shapes.items())

    def _condition(self, task_embedding: Tensor, layer_id: int, position: int) -> Tensor:
        device = task_embedding.device
        layer = self.layer_id_embeddings(torch.tensor([layer_id], dtype=torch.long, device=device)).view(-1)
        kind = self.adapters_block_type(torch.tensor([position], dtype=torch.long, device=device)).view(-1)
        inputs = torch.cat([task_embedding.view(1, -1), layer.view(1, -1), kind.view(1, -1)], 0).view(-1)
        return self.norm(self.task_hypernet(inputs)).view(-1)


def generate_all(
    network: PublishedHypernetwork, task_embedding: Tensor, grouped: bool = False
) -> dict[tuple[int, str], tuple[Tensor, ...]]:
    """Weights of every (layer, site), as ``Hypernetwork`` returns them; several tasks one after the other."""
    by_task = []
    for row in task_embedding:
        layers = [network(row, layer_id) for layer_id in range(network.layout.num_layers)]
        by_task.append({(layer_id, site): weights for layer_id, layer in enumerate(layers)
                        for site, weights in layer.items()})  # fmt: skip
    if not grouped:
        return by_task[0]
    return {key: tuple(torch.stack(same) for same in zip(*(task[key] for task in by_task), strict=True))
            for key in by_task[0]}  # fmt: skip


def gelu_new(x: Tensor) -> Tensor:
    """The tanh form of gelu, spelled out as transformers 3.5 does."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def adapter(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
) -> Tensor:
    """One adapter with a post-norm, step by step."""
    down = functional.linear(x, down_weight, bias=down_bias)
    output = functional.linear(gelu_new(down), up_weight, bias=up_bias)
    output = functional.layer_norm(output, (x.shape[-1],), weight=norm_weight, bias=norm_bias, eps=1e-5)
    return output + x


def lora_term(x: Tensor, matrix_a: Tensor, matrix_b: Tensor) -> Tensor:
    """The LoRA update alone."""
    return functional.linear(functional.linear(x, weight=matrix_a), weight=matrix_b)
