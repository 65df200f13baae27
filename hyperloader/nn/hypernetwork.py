"""The hypernetwork of one stack: from task, layer and position to every weight of every site."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader import ops
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.layout import Layout, SiteTensors, by_site
from hyperloader.nn.sharded import check_whole
from hyperloader.reference import condition as reference

_PUBLISHED_DEVIATION = 0.01
_MEAN_OF_NORMAL = math.sqrt(2 / math.pi)  # of the absolute value of a standard normal number
_MEAN_OF_RELU = math.sqrt(1 / (2 * math.pi))
_CENTRING_TASKS = 64  # random tasks that stand for those to come when conditions are centred
_WITHOUT_BIAS = ("lora_A", "lora_B")


class Condition(nn.Module):
    """``LayerNorm(W2 · relu(W1 · [task ; layer ; position] + b1) + b2)`` for every layer, position and task at once.

    Without ``config.condition_norm`` it is what the layer norm would read.
    With the ``scaled`` initialisation each linear layer reads its input divided by the input's expected length in the
    1-norm, as the heads do.
    """

    def __init__(self, config: HyperLoaderConfig, num_layers: int) -> None:
        super().__init__()
        size = config.task_embedding_dim
        self.layer_embedding = nn.Embedding(num_layers, size)
        self.position_embedding = nn.Embedding(config.num_positions, size)
        self.first = nn.Linear(3 * size, config.condition_hidden_dim)
        self.second = nn.Linear(config.condition_hidden_dim, config.condition_dim)
        self.norm = nn.LayerNorm(config.condition_dim, eps=config.condition_eps) if config.condition_norm else None
        self.scales = (1.0, 1.0)  # of what the two layers read
        if config.init == "scaled":
            self._init_scaled()

    def forward(self, task_embedding: Tensor, layers: Tensor, positions: Tensor, scale: float = 1.0) -> Tensor:
        """Return (positions, layers, tasks, condition_dim), times ``scale``, for ``task_embedding`` (tasks, E)."""
        first, second, norm = self.first, self.second, self.norm
        check_whole((first.weight, second.weight, self.layer_embedding.weight, self.position_embedding.weight))
        if norm is None:
            return self.before_norm(task_embedding, layers, positions) * scale
        return ops.condition(
            task_embedding,
            self.layer_embedding.weight,
            self.position_embedding.weight,
            layers,
            positions,
            first.weight,
            first.bias,
            second.weight,
            second.bias,
            norm.weight,
            norm.bias,
            scales=(*self.scales, scale),
            eps=norm.eps,
        )

    @torch.no_grad()
    def _init_scaled(self) -> None:
        first, second = self.first, self.second
        self.scales = (1 / (first.in_features * _MEAN_OF_NORMAL), 1 / (second.in_features * _MEAN_OF_RELU))
        first.weight.normal_(0, 1 / (self.scales[0] * math.sqrt(first.in_features)))
        second.weight.normal_(0, 1 / (self.scales[1] * math.sqrt(second.in_features / 2)))
        first.bias.zero_()
        second.bias.zero_()
        # Conditions of a relu network have a large part in common, which the heads' biases can express: subtract it.
        tasks = torch.randn(_CENTRING_TASKS, self.layer_embedding.embedding_dim)
        second.bias.copy_(-self.before_norm(tasks).mean((0, 1, 2)))

    def before_norm(
        self, task_embedding: Tensor, layers: Tensor | slice = slice(None), positions: Tensor | slice = slice(None)
    ) -> Tensor:
        """What the layer norm reads: (positions, layers, tasks, condition_dim)."""
        embeddings = (task_embedding, self.layer_embedding.weight[layers], self.position_embedding.weight[positions])
        hidden = reference.hidden_of(*embeddings, self.first.weight, self.first.bias, self.scales[0])
        return reference.before_norm(hidden, self.second.weight, self.second.bias, self.scales[1])


class Hypernetwork(nn.Module):
    """Generates the weights of all sites of one stack (arXiv 2407.01411, section 3).

    A weight head is a linear map from the condition to one weight tensor, shared by all layers and by all positions of
    a kind and shape: those of adapters (down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias) have a
    bias, those of ``lora_A`` and ``lora_B`` have none.

    With ``config.base_weights`` a weight is ``base[layer, site] + generated``: what all tasks share is a parameter,
    zero in a new model, and the hypernetwork has to express the differences between tasks alone.

    ``init="published"`` draws every linear weight from N(0, 0.01²), but ``lora_A``'s head kaiming-uniform (a = √5) and
    ``lora_B``'s zero.

    ``init="scaled"`` makes one learning rate fit every size. Under Adam each parameter moves by about the learning rate
    lr a step, so a generated weight, the sum of condition_dim products, moves by lr · ‖condition‖₁, which is 51 lr for
    the 64 numbers of a layer norm's output: the published model trains its adapters 51 times faster than its other
    parameters. Here the heads read ``condition / ‖condition‖₁`` (the expectation of the norm, condition_dim · √(2/π)),
    so that a generated weight moves by lr, as a weight trained directly would, whatever the sizes. The heads' own
    weights are drawn so that what they generate has the deviation of a freshly initialised layer; the condition network
    is scaled the same way, and its conditions are centred, so that they differ from the start; heads that end a
    branch (``lora_B``, and the adapter's norm, or ``up_weight`` without a norm) start at zero: a new model computes
    exactly what its backbone does.
    """

    heads: Any  # nn.ModuleDict of nn.Linear
    _layers: Tensor
    _positions: Tensor

    def __init__(self, config: HyperLoaderConfig, layout: Layout, num_layers: int, first_layer: int = 0) -> None:
        super().__init__()
        self.layout = layout
        self.condition = Condition(config, num_layers)
        self.heads = nn.ModuleDict(
            {
                part.heads[weight]: nn.Linear(config.condition_dim, math.prod(shape), bias=weight not in _WITHOUT_BIAS)
                for part in layout.parts
                for weight, shape in part.shapes.items()
            }
        )
        self.base = nn.ParameterDict(
            {
                part.heads[weight]: torch.zeros(len(layout.sites_of(part)), *shape)
                for part in (layout.parts if config.base_weights else ())
                for weight, shape in part.shapes.items()
            }
        )
        self.condition_scale = 1.0
        if config.init == "scaled":
            self.condition_scale = 1 / (config.condition_dim * _MEAN_OF_NORMAL)
            self._init_scaled(config)
        else:
            self._init_published()
        self._first_layer = first_layer
        self.register_buffer("_layers", None, persistent=False)
        self.register_buffer("_positions", None, persistent=False)
        self._number()

    @property
    def weight_heads(self) -> Any:
        """Name of a head, see ``Part.heads`` -> the linear map; ``heads`` in the state."""
        return self.heads

    def _number(self) -> None:
        """What the layers and positions of the stack are numbered."""
        device, layout = self.condition.first.weight.device, self.layout
        self._layers = torch.arange(self._first_layer, self._first_layer + layout.num_layers, device=device)
        self._positions = torch.tensor(layout.positions, dtype=torch.long, device=device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._number()  # they are in no state: memory from the device meta would stay unfilled
        return self

    def forward(
        self, task_embedding: Tensor, *, grouped: bool, dtype: torch.dtype | None = None
    ) -> dict[tuple[int, str], SiteTensors]:
        """Generate for ``task_embedding`` (tasks, task_embedding_dim); returns the weights of every (layer, site).

        ``grouped``: the weights carry a first dimension (tasks, ...); otherwise there is one task and they do not.
        """
        condition = self.condition(task_embedding, self._layers, self._positions, self.condition_scale)
        found, first = {}, 0
        for part in self.layout.parts:
            rows = condition[first : first + len(part.sites)].flatten(0, 2)
            first += len(part.sites)
            heads = [self.weight_heads[part.heads[weight]] for weight in part.shapes]
            check_whole(head.weight for head in heads)
            generated = ops.generate(rows, [head.weight for head in heads], [head.bias for head in heads], dtype=dtype)
            sites = self.layout.sites_of(part)
            size = (len(sites), -1) if grouped else (len(sites),)
            views = [tensor.view(*size, *shape) for tensor, shape in zip(generated, part.shapes.values(), strict=True)]
            if self.base:
                bases = [self.base[part.heads[weight]].to(dtype) for weight in part.shapes]
                views = [view + (base[:, None] if grouped else base) for view, base in zip(views, bases, strict=True)]
            found.update(by_site(sites, views))
        return found

    @torch.no_grad()
    def _init_published(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, _PUBLISHED_DEVIATION)
                if module.bias is not None:
                    module.bias.zero_()
        for part in self.layout.parts:
            if "lora_A" in part.heads:
                nn.init.kaiming_uniform_(self.weight_heads[part.heads["lora_A"]].weight, a=math.sqrt(5))
                self.weight_heads[part.heads["lora_B"]].weight.zero_()

    @torch.no_grad()
    def _init_scaled(self, config: HyperLoaderConfig) -> None:
        ones = first_norm_weight(config.norm)
        for part in self.layout.parts:
            for weight, shape in part.shapes.items():
                head = self.weight_heads[part.heads[weight]]
                head.weight.zero_()
                if head.bias is not None:
                    head.bias.fill_(float(weight == ones))
                deviation = initial_deviation(weight, shape, config.norm)
                if deviation:  # of the generated weight; the condition's length is condition_scale · √condition_dim
                    head.weight.normal_(0, deviation / (self.condition_scale * math.sqrt(config.condition_dim)))


def hypernetworks(config: HyperLoaderConfig, layouts: Mapping[str, Layout]) -> dict[str, Hypernetwork]:
    """One hypernetwork per stack, or one that all stacks share and that numbers their layers one after the other."""
    if config.hypernetwork_per_stack:
        return {name: Hypernetwork(config, layout, layout.num_layers) for name, layout in layouts.items()}
    num_layers = sum(layout.num_layers for layout in layouts.values())
    shared, first_layer, networks = None, 0, {}
    for name, layout in layouts.items():
        networks[name] = Hypernetwork(config, layout, num_layers, first_layer)
        first_layer += layout.num_layers
        if shared is None:
            shared = networks[name]
        elif shared.layout.shapes != layout.shapes:
            raise ValueError(
                "hypernetwork_per_stack must be True for a backbone whose stacks differ in the shapes to generate"
            )
        networks[name].condition, networks[name].heads = shared.condition, shared.heads
    return networks


def first_norm_weight(norm: str) -> str:
    """The weight of an adapter's norm that is 1 in a new model that computes what its backbone does: that of the norm
    before the adapter."""
    return "norm_weight" if norm == "pre" else "pre_norm_weight"


def initial_deviation(name: str, shape: tuple[int, ...], norm: str) -> float:
    """Deviation of a weight in a new model that computes what its backbone does: 0 where a branch ends."""
    if name in ("down_weight", "lora_A"):
        return 1 / math.sqrt(shape[-1])
    if name == "up_weight" and norm in ("post", "both"):  # the norm behind it, which starts at zero, ends the branch
        return 1 / math.sqrt(shape[-1])
    return 0.0
