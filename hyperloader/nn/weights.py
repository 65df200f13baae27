"""How generated weights reach the sites: set for one forward, per thread, and again when it is recomputed."""

import threading
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from hyperloader.nn.layout import SiteWeights


class Weights:
    """The weights of every site of a backbone, and which sentence of the batch uses which of them.

    ``sites`` maps (stack, layer, site) to the site's tensors; ``group`` (batch,) is None where all sentences share one
    task and the tensors carry no dimension for groups.
    """

    def __init__(self, sites: dict[tuple[str, int, str], SiteWeights], group: Tensor | None):
        self.sites = sites
        self.group = group
        self._repeated: dict[int, Tensor] = {}
        self._ready: dict[tuple[str, int, str], tuple[Tensor, tuple, Tensor]] = {}

    def keep(self, key: tuple[str, int, str], x: Tensor, y: Tensor) -> None:
        """Keep ``y``, what the site ``key`` computes of ``x``, until the site takes it."""
        self._ready[key] = x, _state(x), y

    def take(self, key: tuple[str, int, str], x: Tensor) -> Tensor | None:
        """What was kept for the site ``key``, if it was computed of this very tensor ``x``, which nothing has written
        to since, and with gradients or without as now."""
        kept_x, state, y = self._ready.pop(key, (None, None, None))
        return y if kept_x is x and state == _state(x) else None

    def forget(self) -> None:
        """Drop what no site has taken."""
        self._ready.clear()

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


def _state(x: Tensor) -> tuple:
    """What changes when ``x`` is written to (a trace and tensors of inference mode do not tell), or grad mode does."""
    tells = not torch.compiler.is_compiling() and not x.is_inference()
    return torch.is_grad_enabled(), x._version if tells else None


class ActiveWeights(threading.local):
    """The weights that a model's sites apply now, in this thread."""

    def __init__(self):
        self.current: Weights | None = None

    def __reduce__(self):  # copied or pickled with its model, it starts empty
        return type(self), ()

    def require(self) -> Weights:
        """The weights set now; raises ``RuntimeError`` outside the model's forward."""
        if self.current is None:
            raise RuntimeError(
                "this backbone is attached to a HyperLoaderModel: call that model, which generates the weights, not "
                "the backbone; for gradient checkpointing call the model's gradient_checkpointing_enable()"
            )
        return self.current

    def use(self, weights: Weights | None) -> "Use":
        """Apply ``weights`` inside the block."""
        return Use(self, weights)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """``context_fn`` of ``torch.utils.checkpoint``: recomputation in the backward sees the weights of its forward,
        though another forward may have run in between."""
        return nullcontext(), self.use(self.current)


class Use:
    """A block in which ``weights`` are applied. It can be entered again: a graph that is kept is recomputed twice."""

    def __init__(self, active: ActiveWeights, weights: Weights | None):
        self._active, self._weights = active, weights
        self._previous: list[Weights | None] = []

    def __enter__(self) -> None:
        self._previous.append(self._active.current)
        self._active.current = self._weights

    def __exit__(self, *_) -> None:
        if self._weights is not None:
            self._weights.forget()
        self._active.current = self._previous.pop()
