"""Whole models around the same backbone, with the very parameters of one of ours.

A model here takes over ``ours``: its hypernetworks, task embeddings, heads and backbone, and leaves it empty.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines import plain, published
from hyperloader import HyperLoaderModel
from hyperloader.backbones import find_norms, find_stacks
from hyperloader.config import ADAPTER_SITES

PUBLISHED = {"init": "published", "norm": "post", "activation": "gelu_new", "scaling": 1.0, "generator": "hypernetwork"}


class Site(nn.Module):
    """An ``nn.Linear`` of the backbone, and what is computed after or beside it with the weights of the moment."""

    def __init__(self, linear: nn.Linear, compute: Callable[..., Tensor], weights: dict, key: tuple[str, int, str]):
        super().__init__()
        self.linear, self.compute, self.weights, self.key = linear, compute, weights, key

    @property
    def weight(self) -> Tensor:  # T5 looks at it
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self.linear, *self.weights[self.key])


class BaselineModel(nn.Module):
    """The frozen backbone, training its norms and task heads: what every other model is built on.

    ``trained`` holds the trained parameters under the names that they have in ``ours``.
    """

    def __init__(self, ours: HyperLoaderModel):
        super().__init__()
        config = ours.hyperloader_config
        for name, value in PUBLISHED.items():
            if getattr(config, name) != value:
                raise ValueError(f"{name} must be {value!r} for a baseline, got {getattr(config, name)!r}")
        trained = {name: parameter for name, parameter in ours.named_parameters() if parameter.requires_grad}
        self.sites = (*config.adapter_sites, *config.lora_sites)
        self.heads = ours.heads
        self.take_over(ours)
        norms = {name: ours.backbone.get_parameter(name).detach().clone() for name in find_norms(ours.backbone)}
        self.backbone = ours.detach().requires_grad_(False)
        self.stacks = find_stacks(self.backbone)
        with torch.no_grad():
            for name, value in norms.items():  # detach() brings back what they were before any training
                self.backbone.get_parameter(name).copy_(value).requires_grad_(True)
        self.to(
            next(self.backbone.parameters()).dtype
        )  # ours keeps what it trains in float32, these are as one casts them
        mine = {id(parameter) for parameter in self.parameters()}
        self.trained = {name: parameter for name, parameter in trained.items() if id(parameter) in mine}

    def take_over(self, ours: HyperLoaderModel) -> None:
        """Take what the model needs of ``ours`` besides its backbone and heads."""

    def choose(self, which: int | Tensor) -> None:
        """Get ready for a batch of one task, or of the task of each sentence."""

    def forward(self, input_ids: Tensor, which: int | Tensor = 0, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """(loss, logits), or (logits,) without ``labels``."""
        self.choose(which)
        if self.heads is None:
            return self.backbone(input_ids=input_ids, labels=labels).to_tuple()[:2]
        logits = self.heads(self.backbone(input_ids=input_ids).last_hidden_state, which)
        if labels is None:
            return (logits,)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(wide.flatten(0, 1), labels.flatten()), logits

    @torch.no_grad()
    def generate(self, input_ids: Tensor, which: int | Tensor = 0, **options) -> Tensor:
        """The backbone's ``generate``."""
        self.choose(which)
        return self.backbone.generate(input_ids=input_ids, **options)

    def wrap(self, compute_adapter: Callable[..., Tensor], compute_lora: Callable[..., Tensor], weights: dict) -> None:
        """Put a ``Site`` around every linear layer that is one."""
        for stack in self.stacks:
            for index, layer in enumerate(stack.layers):
                for site, path in layer.items():
                    if site in self.sites:
                        compute = compute_adapter if site in ADAPTER_SITES else compute_lora
                        wrapped = Site(self.backbone.get_submodule(path), compute, weights, (stack.name, index, site))
                        parent, _, name = path.rpartition(".")
                        setattr(self.backbone.get_submodule(parent), name, wrapped)


class PlainModel(BaselineModel):
    """Plain PyTorch: all weights generated at once for the tasks at hand, applied by plain functions."""

    def __init__(self, ours: HyperLoaderModel):
        super().__init__(ours)
        self._weights: dict = {}
        self._group: Tensor | None = None
        self.wrap(self._adapter, self._lora, self._weights)

    def take_over(self, ours: HyperLoaderModel) -> None:
        self.task_embedding = ours.task_embedding
        self.networks = nn.ModuleDict({name: plain.PlainHypernetwork(one) for name, one in ours.generators.items()})

    def choose(self, which: int | Tensor) -> None:
        if isinstance(which, int):
            tasks, self._group = torch.tensor([which], device=self.task_embedding.weight.device), None
        else:
            tasks, self._group = torch.unique(which, return_inverse=True)
        embedding = self.task_embedding(tasks)
        for name, network in self.networks.items():
            for (layer, site), weights in network(embedding, grouped=self._group is not None).items():
                self._weights[name, layer, site] = weights

    def _adapter(self, x: Tensor, linear: nn.Linear, *weights: Tensor) -> Tensor:
        return plain.adapter(linear(x), *weights, group=self._group)

    def _lora(self, x: Tensor, linear: nn.Linear, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        return plain.lora_linear(x, linear.weight, linear.bias, lora_A, lora_B, group=self._group)


class PublishedModel(BaselineModel):
    """The published way: every layer, when it is about to run, has its weights generated one by one."""

    def __init__(self, ours: HyperLoaderModel):
        super().__init__(ours)
        self._weights: dict = {}
        self._task = 0
        self.wrap(_published_adapter, _published_lora, self._weights)
        for stack in self.stacks:
            for index, layer in enumerate(stack.layers):
                path = re.match(r".*?\.\d+", next(iter(layer.values())))[0]
                generate = self._before(stack.name, index)
                self.backbone.get_submodule(path).register_forward_pre_hook(generate)

    def take_over(self, ours: HyperLoaderModel) -> None:
        self.task_embedding = ours.task_embedding
        networks = {name: published.PublishedHypernetwork(one) for name, one in ours.generators.items()}
        self.networks = nn.ModuleDict(networks)

    def choose(self, which: int | Tensor) -> None:
        if not isinstance(which, int):
            raise TypeError("which must be one task: a batch of the published implementation holds no other")
        self._task = which

    def _before(self, stack: str, index: int) -> Callable:
        def generate(module, inputs):
            task_embedding = self.task_embedding.weight[self._task]
            for site, weights in self.networks[stack](task_embedding, index).items():
                self._weights[stack, index, site] = weights

        return generate


def _published_adapter(x: Tensor, linear: nn.Linear, *weights: Tensor) -> Tensor:
    return published.adapter(linear(x), *weights)


def _published_lora(x: Tensor, linear: nn.Linear, lora_A: Tensor, lora_B: Tensor) -> Tensor:
    return linear(x) + published.lora_term(x, lora_A, lora_B)
