"""Weights that are parameters: the plain adapters and LoRA that a hypernetwork is compared with."""

import torch
from torch import Tensor, nn

from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.hypernetwork import first_norm_weight, initial_deviation
from hyperloader.nn.layout import Layout, SiteTensors, by_site
from hyperloader.nn.sharded import check_whole


class Table(nn.Module):
    """One set of adapters and LoRA updates per task, every weight its own parameter; nothing is shared.

    A new table's updates are zero: the model computes exactly what its backbone does.
    """

    def __init__(self, config: HyperLoaderConfig, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.weights = nn.ParameterDict(
            {
                part.heads[weight]: torch.randn(len(layout.sites_of(part)), len(config.tasks), *shape)
                * initial_deviation(weight, shape, config.norm)
                for part in layout.parts
                for weight, shape in part.shapes.items()
            }
        )
        for part in layout.parts:
            if first_norm_weight(config.norm) in part.heads:
                nn.init.ones_(self.weights[part.heads[first_norm_weight(config.norm)]])

    def forward(
        self, tasks: Tensor, *, grouped: bool, dtype: torch.dtype | None = None
    ) -> dict[tuple[int, str], SiteTensors]:
        """Look up ``tasks`` (int64); same result as ``Hypernetwork.forward``."""
        check_whole(self.weights.values())
        found = {}
        for part in self.layout.parts:  # rows: (sites, tasks, ...)
            rows = [_rows_of(self.weights[name], tasks).to(dtype) for name in part.heads.values()]
            rows = rows if grouped else [tensor.squeeze(1) for tensor in rows]
            found.update(by_site(self.layout.sites_of(part), rows))
        return found


def _rows_of(weight: Tensor, tasks: Tensor) -> Tensor:
    """``weight[:, tasks]``. Off the CPU ``tasks`` may name one twice: indexing adds up its gradients in a fixed order,
    ``index_select`` in any."""
    return weight.index_select(1, tasks) if tasks.device.type == "cpu" else weight[:, tasks]
