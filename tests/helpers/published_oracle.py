"""What the published code does, written down plainly after section 4 of the specification: weight by weight, in order.

Only what decides names, shapes and numbers; nothing of the package is used.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional


def make_config(**changes):
    """The published attributes, at tiny sizes unless changed."""
    values = {
        "task_embedding_dim": 6,
        "projected_task_embedding_dim": 5,
        "task_hidden_dim": 7,
        "input_dim": 16,
        "reduction_factor": 4,
        "unique_hyper_net_layer_norm": True,
        "add_layer_norm_before_adapter": False,
        "add_layer_norm_after_adapter": True,
        "conditional_layer_norm": True,
        "train_task_embeddings": False,
        "non_linearity": "gelu_new",
        "device": torch.device("cpu"),
    }
    return SimpleNamespace(**values | changes)


class WeightNet(nn.Module):
    """One weight tensor and, unless told otherwise, its bias."""

    def __init__(self, size, rows, columns, bias=True):
        super().__init__()
        self.shape = rows, columns
        self.weight_generator = nn.Sequential(nn.Linear(size, rows * columns, bias=bias))
        if bias:
            self.bias_generator = nn.Sequential(nn.Linear(size, rows))

    def forward(self, condition):
        weight = self.weight_generator(condition).view(self.shape)
        if not hasattr(self, "bias_generator"):
            return weight
        return SimpleNamespace(weight=weight, bias=self.bias_generator(condition))


class NormNet(nn.Module):
    def __init__(self, size, hidden):
        super().__init__()
        self.weight_generator = nn.Linear(size, hidden)
        self.bias_generator = nn.Linear(size, hidden)

    def forward(self, condition):
        return SimpleNamespace(weight=self.weight_generator(condition), bias=self.bias_generator(condition))


class ConditionNet(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.task_embeding_generator = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, inputs):
        return self.task_embeding_generator(inputs)


class AdapterLayersOneHyperNetController(nn.Module):
    def __init__(self, config, num_layers=6):
        super().__init__()
        size, hidden = config.projected_task_embedding_dim, config.input_dim
        bottleneck, rank = hidden // config.reduction_factor, 8
        self.layer_id_embeddings = nn.Embedding(num_layers, config.task_embedding_dim)
        self.adapters_block_type = nn.Embedding(6, config.task_embedding_dim)
        self.task_hypernet = ConditionNet(3 * config.task_embedding_dim, config.task_hidden_dim, size)
        if config.unique_hyper_net_layer_norm:
            self.LayerNorm = nn.LayerNorm(size, eps=1e-6)
        self.up_sampler_hyper_net = WeightNet(size, hidden, bottleneck)
        self.down_sampler_hyper_net = WeightNet(size, bottleneck, hidden)
        self.lora_a_hyper_net = WeightNet(size, rank, hidden, bias=False)
        self.lora_b_hyper_net = WeightNet(size, hidden, rank, bias=False)
        if config.add_layer_norm_before_adapter:
            self.pre_layernorm_hypernet = NormNet(size, hidden)
        if config.add_layer_norm_after_adapter:
            self.post_layernorm_hypernet = NormNet(size, hidden)

    def forward(self, task_embedding, layer_id):
        adapters = [self._adapter(self._condition(task_embedding, layer_id, position)) for position in (0, 1)]
        pairs = []
        for position in (2, 3, 4, 5):
            condition = self._condition(task_embedding, layer_id, position)
            pairs.append(SimpleNamespace(a=self.lora_a_hyper_net(condition), b=self.lora_b_hyper_net(condition)))
        names = ("lora_query", "lora_value", "lora_cross_query", "lora_cross_value")
        return SimpleNamespace(
            feed_forward=adapters[0], self_attention=adapters[1], **dict(zip(names, pairs, strict=True))
        )

    def _condition(self, task_embedding, layer_id, position):
        layer, place = self.layer_id_embeddings.weight[layer_id], self.adapters_block_type.weight[position]
        condition = self.task_hypernet(torch.cat([task_embedding.view(-1), layer, place]))
        return self.LayerNorm(condition) if hasattr(self, "LayerNorm") else condition

    def _adapter(self, condition):
        up, down = self.up_sampler_hyper_net(condition), self.down_sampler_hyper_net(condition)
        norms = {}
        for name in ("pre", "post"):
            net = getattr(self, f"{name}_layernorm_hypernet", None)
            norms[f"{name}_norm"] = None if net is None else net(condition)
        return SimpleNamespace(up=up, down=down, **norms)


ACTIVATIONS = {
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "relu": lambda x: x.clamp_min(0),
    "swish": lambda x: x * torch.sigmoid(x),
    "silu": lambda x: x * torch.sigmoid(x),
}


class MetaLayersAdapterController(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, inputs, adapter_weights):
        x = inputs
        if self.config.add_layer_norm_before_adapter:
            x = self._norm(x, adapter_weights.pre_norm)
        x = functional.linear(x, adapter_weights.down.weight, adapter_weights.down.bias)
        x = ACTIVATIONS[self.config.non_linearity.lower()](x)
        x = functional.linear(x, adapter_weights.up.weight, adapter_weights.up.bias)
        if self.config.add_layer_norm_after_adapter:
            x = self._norm(x, adapter_weights.post_norm)
        return x + inputs

    def _norm(self, x, norm):
        return functional.layer_norm(x, (self.config.input_dim,), norm.weight, norm.bias)


class MetaLoRALayer(nn.Module):
    def forward(self, x, matrix_a, matrix_b):
        return x @ matrix_a.T @ matrix_b.T


def bucket(distance, buckets, furthest):
    """The bucket of a key ``distance`` tokens behind its query: one each for the nearest, then ever wider ones."""
    half = buckets // 2
    first, length = half * (distance > 0), abs(distance)
    if length < half // 2:
        return first + length
    width = math.log(length / (half // 2)) / math.log(furthest / (half // 2))
    return first + min(half // 2 + int(width * (half - half // 2)), half - 1)


class CrossAttention(nn.Module):
    """The cross-attention of a decoder layer, in the place of ``attention``: each layer adds the bias by itself.

    ``bias`` (buckets, heads). Nothing is cached: the queries are those of the whole sentence, from its beginning.
    """

    def __init__(self, attention, bias, furthest=128):
        super().__init__()
        self.q, self.k, self.v, self.o = attention.q, attention.k, attention.v, attention.o
        self.added, self.furthest = bias, furthest

    def forward(self, hidden_states, mask=None, key_value_states=None, past_key_values=None, **_):
        assert past_key_values is None
        buckets, heads = self.added.shape

        def split(x):
            return x.unflatten(-1, (heads, -1)).transpose(1, 2)

        scores = split(self.q(hidden_states)) @ split(self.k(key_value_states)).mT
        queries, keys = scores.shape[-2:]
        rows = [[bucket(key - query, buckets, self.furthest) for key in range(keys)] for query in range(queries)]
        scores = scores + self.added[torch.tensor(rows)].permute(2, 0, 1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        y = scores.softmax(-1) @ split(self.v(key_value_states))
        return self.o(y.transpose(1, 2).flatten(2)), None, None


def leaves(weights):
    """Every tensor of a layer's weights by the name of its field, and None for a norm that is not there."""
    found = {}
    for kind in ("feed_forward", "self_attention"):
        adapter = getattr(weights, kind)
        for part in ("up", "down", "pre_norm", "post_norm"):
            pair = getattr(adapter, part)
            for name in ("weight", "bias"):
                found[f"{kind}.{part}.{name}"] = None if pair is None else getattr(pair, name)
    for kind in ("lora_query", "lora_value", "lora_cross_query", "lora_cross_value"):
        for name in ("a", "b"):
            found[f"{kind}.{name}"] = getattr(getattr(weights, kind), name)
    return found


def randomise(module, seed=3):
    """The same random numbers for every parameter, whatever wrote its module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module
