"""The drop-in classes, asked layer by layer as the published code asks its own."""

from types import SimpleNamespace

import torch
from torch import Tensor

from hyperloader.config import ADAPTER_SITES, LORA_SITES
from hyperloader.interop.published import AdapterLayersOneHyperNetController
from hyperloader.interop.published.names import ADAPTER, CONDITION, LORA, norm_modules
from hyperloader.nn.hypernetwork import Hypernetwork

_FIELDS = dict(
    zip(
        (*ADAPTER_SITES, *LORA_SITES),
        (*ADAPTER_SITES, "lora_query", "lora_value", "lora_cross_query", "lora_cross_value"),
        strict=True,
    )
)


def controller(ours: Hypernetwork) -> AdapterLayersOneHyperNetController:
    """The drop-in hypernetwork with the parameters of ``ours``, which normalises behind its adapters."""
    condition, (bottleneck, hidden) = ours.condition, ours.layout.shapes["down_weight"]
    config = SimpleNamespace(
        task_embedding_dim=condition.layer_embedding.embedding_dim,
        projected_task_embedding_dim=condition.second.out_features,
        task_hidden_dim=condition.first.out_features,
        input_dim=hidden,
        reduction_factor=hidden // bottleneck,
        unique_hyper_net_layer_norm=True,
        add_layer_norm_before_adapter=False,
        add_layer_norm_after_adapter=True,
        conditional_layer_norm=True,
        device=condition.first.weight.device,
    )
    made = AdapterLayersOneHyperNetController(config, ours.layout.num_layers)
    for published, own in (CONDITION | ADAPTER | norm_modules(False, True) | LORA).items():
        made.set_submodule(published, ours.get_submodule(own))
    return made


def generate_all(
    network: AdapterLayersOneHyperNetController, task_embedding: Tensor, grouped: bool = False
) -> dict[tuple[int, str], tuple[Tensor, ...]]:
    """The weights of an encoder's layers, as ``Hypernetwork`` returns them; several tasks one after the other."""
    by_task = [_one_task(network, row) for row in (task_embedding if grouped else [task_embedding])]
    if not grouped:
        return by_task[0]
    return {key: tuple(torch.stack(same) for same in zip(*(task[key] for task in by_task), strict=True))
            for key in by_task[0]}  # fmt: skip


def _one_task(network: AdapterLayersOneHyperNetController, row: Tensor) -> dict[tuple[int, str], tuple[Tensor, ...]]:
    found = {}
    for layer in range(network.num_layers):
        weights = network(row, layer)
        for site in ADAPTER_SITES:
            adapter = getattr(weights, site)
            found[layer, site] = (*adapter.down, *adapter.up, *adapter.post_norm)
        for site in LORA_SITES[:2]:
            found[layer, site] = tuple(getattr(weights, _FIELDS[site]))
    return found
