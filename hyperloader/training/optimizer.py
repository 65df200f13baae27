"""The optimizers, one of them that of the published runs: transformers' own AdamW, as of version 3.5."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from hyperloader.optim import RowAdamW, with_dense_gradients
from hyperloader.training.presets import TrainingOptions
from hyperloader.training.weights import trained_parameters


def make_optimizer(model: torch.nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """AdamW over what is trained of ``model``; vectors (biases, norms) do not decay, the tasks' heads have a learning
    rate of their own by ``options.head_base_width``."""
    sparse, parameters = has_sparse_gradients(model), list(trained_parameters(model).values())
    vectors = {one for one in parameters if one.ndim <= 1 or (sparse and one.shape[1:] == (1,))}  # biases of all heads
    heads, head_rate = _heads(model, options)
    groups = []
    for rate, of_heads in ((options.learning_rate, False), (head_rate, True)):
        for decay, are_vectors in ((options.weight_decay, False), (0.0, True)):
            found = [one for one in parameters if (one in heads, one in vectors) == (of_heads, are_vectors)]
            groups.append({"params": found, "lr": rate, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    if sparse:
        return RowAdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    if options.optimizer == "adamw_hf":
        return TransformersAdamW(groups, lr=options.learning_rate)
    return torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)


def _heads(model: torch.nn.Module, options: TrainingOptions) -> tuple[set[torch.nn.Parameter], float]:
    """The parameters that have the learning rate of heads, and that rate."""
    heads: Any = getattr(model, "heads", None)
    if heads is None or not options.head_base_width:
        return set(), options.learning_rate
    return set(heads.parameters()), options.learning_rate * options.head_base_width / heads.weight.shape[1]


def has_sparse_gradients(model: torch.nn.Module) -> bool:
    """Whether ``model`` is a ``HyperLoaderModel`` with ``config.sparse_gradients``."""
    return getattr(getattr(model, "hyperloader_config", None), "sparse_gradients", False)


def clip_sparse(accelerator: Any) -> None:
    """Let ``clip_grad_norm_`` of an ``accelerate.Accelerator`` take sparse gradients, of which PyTorch's has no norm.

    Raises ``ValueError`` for one that shards parameters, which PyTorch does for dense gradients alone.
    """
    kind = getattr(accelerator.distributed_type, "value", accelerator.distributed_type)
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ValueError(f"model.sparse_gradients must be false with {kind}, which shards parameters; DDP takes it")
    clip = accelerator.clip_grad_norm_

    def clip_rows(parameters: Iterable[torch.Tensor], *arguments: Any, **options: Any) -> Any:
        return clip(with_dense_gradients(parameters), *arguments, **options)

    accelerator.clip_grad_norm_ = clip_rows


def exchange_sparse(model: torch.nn.Module) -> None:
    """Let ``DistributedDataParallel``, if ``model`` is one, gather sparse gradients, which NCCL does not sum."""
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        from hyperloader.row_exchange import exchange_rows  # builds without torch.distributed have no such model

        model.register_comm_hook(None, exchange_rows)


class TransformersAdamW(torch.optim.Optimizer):
    """AdamW with epsilon outside the bias correction. With the gradient ``g`` of update ``t``::

        m <- b1 m + (1 - b1) g
        v <- b2 v + (1 - b2) g²
        p <- p - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)
        p <- p - lr weight_decay p

    ``torch.optim.AdamW`` adds ``eps`` to the corrected ``sqrt(v / (1 - b2^t))`` and decays before the step. Here
    ``eps`` is in effect ``eps / sqrt(1 - b2^t)``, 3e-7 at the first update, which matters where gradients are small.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, at least 0.
        betas: ``b1`` and ``b2``, at least 0 and below 1.
        eps: at least 0.
        weight_decay: at least 0.

    Raises:
        ValueError: a value outside its range; a state that another optimizer saved.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers, at least 0 and below 1, got {betas}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; gives the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                mean, square, gradient = state["exp_avg"], state["exp_avg_sq"], parameter.grad
                mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
                square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                size = rate * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-size)
                if group["weight_decay"]:
                    parameter.mul_(1 - rate * group["weight_decay"])
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what ``state_dict`` gave; the state of PyTorch's AdamW would go on as another training."""
        if any("amsgrad" in group for group in state_dict["param_groups"]):
            raise ValueError(
                "state_dict must be of transformers' AdamW, got one of torch.optim.AdamW; an earlier version of "
                "hyperloader began this run with it: finish it with that version, or begin anew in another output"
            )
        super().load_state_dict(state_dict)
