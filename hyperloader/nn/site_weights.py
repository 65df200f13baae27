"""How generated weights reach the sites: set for one forward, per thread, and again when it is recomputed."""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hyperloader.nn.layout import SiteKey, SiteTensors


class SiteWeights:
    """The weights of every site of a backbone, and which sentence of the batch uses which of them.

    ``sites`` maps (stack, layer, site) to the site's tensors; ``group`` (batch,) is None where all sentences share one
    task and the tensors carry no dimension for groups.
    """

    def __init__(self, sites: dict[SiteKey, SiteTensors], group: Tensor | None) -> None:
        self.sites = sites
        self.group = group
        self._repeated: dict[int, Tensor] = {}

    def group_of(self, rows: int) -> Tensor | None:
        """``group`` for a batch of ``rows`` rows: beam search repeats every sentence."""
        if self.group is None or rows == self.group.shape[0]:
            return self.group
        if rows not in self._repeated:
            sentences = self.group.shape[0]
            if sentences == 0 or rows % sentences:
                raise ValueError(f"task_ids must have one entry per sentence, got {sentences} for {rows} rows")
            self._repeated[rows] = torch.repeat_interleave(self.group, rows // sentences)
        return self._repeated[rows]


class ActiveWeights(threading.local):
    """The weights that a model's sites apply now, in this thread."""

    def __init__(self) -> None:
        self.current: SiteWeights | None = None

    def __reduce__(self) -> tuple:  # copied or pickled with its model, it starts empty
        return type(self), ()

    def require(self) -> SiteWeights:
        """The weights set now; raises ``RuntimeError`` outside the model's forward."""
        if self.current is None:
            raise RuntimeError(
                "this backbone is attached to a HyperLoaderModel: call that model, which generates the weights, not "
                "the backbone; for gradient checkpointing call the model's gradient_checkpointing_enable()"
            )
        return self.current

    def use(self, weights: SiteWeights | None) -> "ActiveBlock":
        """Apply ``weights`` inside the block."""
        return ActiveBlock(self, weights)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """``context_fn`` of ``torch.utils.checkpoint``: recomputation in the backward sees the weights of its forward,
        though another forward may have run in between."""
        return nullcontext(), self.use(self.current)


class ActiveBlock:
    """A block in which ``weights`` are applied. It can be entered again: a graph that is kept is recomputed twice."""

    def __init__(self, active: ActiveWeights, weights: SiteWeights | None) -> None:
        self._active, self._weights = active, weights
        self._previous: list[SiteWeights | None] = []

    def __enter__(self) -> None:
        self._previous.append(self._active.current)
        self._active.current = self._weights

    def __exit__(self, *_: Any) -> None:
        self._active.current = self._previous.pop()
