"""AdamW for models with ``sparse_gradients``, and clipping of such gradients."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW`` in which a row that has no gradient is left as it is.

    A parameter with a sparse gradient is updated row by row, each by the equations of AdamW with a number of updates
    ``step`` of its own: a row without a gradient neither decays nor has its moments aged. What a row ends as does not
    depend on the steps in which it was not met. Parameters with dense gradients are updated by ``torch.optim.AdamW``.

    Args:
        params, lr, betas, eps, weight_decay, fused: as in ``torch.optim.AdamW``; ``fused`` is for dense gradients.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
        self._step_supports_amp_scaling = False  # GradScaler unscales, and leaves a step out, by itself: rows as well

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more group; raises ``ValueError`` for ``maximize`` or ``amsgrad``, which rows do not have."""
        for name in ("maximize", "amsgrad"):
            if param_group.get(name):
                raise ValueError(f"{name} must be False, got {param_group[name]!r}: RowAdamW has none")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter, and of every row, that has a gradient; gives the closure's loss, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        everything = (
            (group, parameter, parameter.grad) for group in self.param_groups for parameter in group["params"]
        )
        sparse = [(*both, grad) for *both, grad in everything if grad is not None and grad.is_sparse]
        for _, parameter, _ in sparse:
            parameter.grad = None  # AdamW skips it
        try:
            inspect.unwrap(torch.optim.AdamW.step)(self)  # without the hooks, which this step has
        finally:
            for _, parameter, grad in sparse:
                parameter.grad = grad
        for group, parameter, grad in sparse:
            self._update_rows(group, parameter, grad.coalesce())
        return loss

    def _update_rows(self, group: dict[str, Any], parameter: Tensor, grad: Tensor) -> None:
        rows, values = grad.indices()[0], grad.values()
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros(len(parameter), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        step = state["step"][rows] + 1
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        now = parameter[rows] * (1 - group["lr"] * group["weight_decay"])
        exponent = step.double()[:, None]
        corrected = (square.sqrt() / (1 - beta2**exponent).sqrt().to(square.dtype)).add_(group["eps"])
        now -= (group["lr"] / (1 - beta1**exponent)).to(mean.dtype) * mean / corrected
        for kept, updated in (
            (parameter, now),
            *((state[k], v) for k, v in (("step", step), ("exp_avg", mean), ("exp_avg_sq", square))),
        ):
            kept.index_copy_(0, rows, updated)


def with_dense_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """``parameters``, in the place of one with a sparse gradient a tensor whose gradient is the numbers of that one, in
    the same memory: what looks at gradients alone, or scales them in place, does so without knowing of rows."""
    found = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values = parameter.grad.values().detach()
            parameter = torch.empty_like(values)
            parameter.grad = values
        found.append(parameter)
    return found


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, **options: Any) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_``, of sparse gradients too."""
    each = [parameters] if isinstance(parameters, Tensor) else parameters
    return torch.nn.utils.clip_grad_norm_(with_dense_gradients(each), max_norm, **options)
