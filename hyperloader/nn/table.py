"""Weights that are parameters: the plain adapters and LoRA that a hypernetwork is compared with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.hypernetwork import initial_deviation
from hyperloader.nn.layout import Layout, SiteTensors


class Table(nn.Module):
    """One set of adapters and LoRA updates per task, every weight its own parameter; nothing is shared.

    A new table's updates are zero: the model computes exactly what its backbone does.
    """

    def __init__(self, config: HyperLoaderConfig, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        sites = {
            **dict.fromkeys(layout.adapter_shapes, layout.sites_of(layout.adapter_sites)),
            **dict.fromkeys(layout.lora_shapes, layout.sites_of(layout.lora_sites)),
        }
        self.weights = nn.ParameterDict(
            {
                name: torch.randn(len(sites[name]), len(config.tasks), *shape)
                * initial_deviation(name, shape, config.norm)
                for name, shape in layout.shapes.items()
            }
        )
        for name in ("norm_weight",) if config.norm == "pre" else ("pre_norm_weight",):
            if name in self.weights:
                nn.init.ones_(self.weights[name])

    def forward(
        self, tasks: Tensor, *, grouped: bool, dtype: torch.dtype | None = None
    ) -> dict[tuple[int, str], SiteTensors]:
        """Look up ``tasks`` (int64); same result as ``Hypernetwork.forward``."""
        layout = self.layout
        return {
            **self._look_up(layout.adapter_shapes, layout.adapter_sites, tasks, grouped, dtype),
            **self._look_up(layout.lora_shapes, layout.lora_sites, tasks, grouped, dtype),
        }

    def _look_up(
        self, shapes: Any, kinds: Sequence[str], tasks: Tensor, grouped: bool, dtype: torch.dtype | None
    ) -> Any:
        if not kinds:
            return {}
        found = [_rows_of(self.weights[name], tasks).to(dtype) for name in shapes]  # (sites, tasks, ...)
        by_head = [(tensor if grouped else tensor.squeeze(1)).unbind(0) for tensor in found]
        return dict(zip(self.layout.sites_of(kinds), zip(*by_head, strict=True), strict=True))


def _rows_of(weight: Tensor, tasks: Tensor) -> Tensor:
    """``weight[:, tasks]``. Off the CPU ``tasks`` may name one twice: indexing adds up its gradients in a fixed order,
    ``index_select`` in any."""
    return weight.index_select(1, tasks) if tasks.device.type == "cpu" else weight[:, tasks]
