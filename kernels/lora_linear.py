"""LoRA linears in Triton: PyTorch's library makes the frozen products, one launch adds all updates into them.

The backward is two launches beside those products, or one without the gradients of the weights; with groups one more
puts the sentences in their order.

Same contract as ``hyperloader.reference.lora_linear``: linears of one ``x``, whose updates are computed together.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
from torch import Tensor
from torch.nn import functional

from hyperloader.kernels import _launch
from hyperloader.kernels._launch import padded
from hyperloader.kernels._lora_linear import forward_kernel, tokens_kernel, weights_kernel
from hyperloader.kernels._tokens import SENTENCES, order_kernel
from hyperloader.reference.groups import LoraNeeded

__all__ = ["backward", "forward"]

_BLOCK = 128  # columns of a program that adds the shares of a sum


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    group: Tensor | None,
    scaling: float,
) -> list[Tensor]:
    """Return every ``y`` (..., out_features) in the dtype of ``x``; ``biases`` is empty or has one per weight."""
    shapes = _Shapes(x, lora_A, lora_B)
    x, lora_A, lora_B = x.contiguous(), _contiguous(lora_A), _contiguous(lora_B)
    frozen = x.to(weights[0].dtype)
    frozen_biases: Sequence[Tensor | None] = biases or [None] * len(weights)
    ys = tuple(
        functional.linear(frozen, weight, bias.to(weight.dtype) if bias is not None else None)
        for weight, bias in zip(weights, frozen_biases, strict=True)
    )
    tokens = _launch.tokens_of(x, group, lora_A[0].shape[0])
    if tokens.count:
        blocks = shapes.blocks(x)
        _launch.launch(
            forward_kernel, (tokens.tiles(blocks.tokens),),
            x, lora_A, lora_B, ys, tokens.group, tokens.length, tokens.groups, scaling,
            **shapes.constants, BLOCK_T=blocks.tokens, BLOCK_K=blocks.columns, STAGES=blocks.num_stages,
            num_warps=blocks.num_warps, num_stages=blocks.num_stages,
        )  # fmt: skip
    return [y.to(x.dtype) for y in ys]


def backward(
    grads: Sequence[Tensor],
    x: Tensor,
    weights: Sequence[Tensor],
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    group: Tensor | None,
    scaling: float,
    needed: LoraNeeded,
) -> list[Tensor]:
    """Return those gradients of x, weights, biases, lora_A and lora_B that ``needed`` asks for, in this order."""
    shapes = _Shapes(x, lora_A, lora_B)
    shape, x = x.shape, x.contiguous().flatten(0, -2)
    grads = tuple(grad.contiguous().flatten(0, -2) for grad in grads)
    lora_A, lora_B = _contiguous(lora_A), _contiguous(lora_B)
    tokens = _launch.tokens_of(x.view(shape), group, lora_A[0].shape[0])
    grad_x = _frozen_gradient(grads, weights) if needed.x else None
    grads_A = tuple(torch.empty_like(one) for one in lora_A) if needed.lora_A else ()
    grads_B = tuple(torch.empty_like(one) for one in lora_B) if needed.lora_B else ()
    if tokens.count == 0 or not any((x.shape[1], *shapes.constants["OUTS"])):
        for grad in (*grads_A, *grads_B):
            grad.zero_()
    elif needed.x or needed.lora_A or needed.lora_B:
        _low_rank_gradients(grads, x, lora_A, lora_B, tokens, scaling, grad_x, grads_A, grads_B, shapes)
    results = [] if grad_x is None else [grad_x.to(x.dtype).view(shape)]
    if needed.weights:
        converted = x.to(weights[0].dtype)
        results += [grad.to(converted.dtype).mT @ converted for grad in grads]
    if needed.biases:
        results += [grad.sum(0, dtype=torch.float32) for grad in grads]
    return [*results, *grads_A, *grads_B]


class _Shapes:
    """Sizes of several linears of one ``x``, as the kernels take them."""

    def __init__(self, x: Tensor, lora_A: Sequence[Tensor], lora_B: Sequence[Tensor]):
        self.ranks = tuple(one.shape[-2] for one in lora_A)
        self.total = sum(self.ranks)
        _launch.check_dtype("lora_linear", x.dtype)
        _launch.check_width("lora_linear", "ranks (of all linears together)", self.total)
        dot, precision = _launch.product_dtype(x, *lora_A, *lora_B)
        self.firsts = (0, *accumulate(self.ranks))[:-1]
        self.constants = {
            "RANKS": self.ranks,
            "FIRSTS": self.firsts,
            "IN": x.shape[-1],
            "OUTS": tuple(one.shape[-2] for one in lora_B),
            "DOT": dot,
            "PRECISION": precision,
            "BLOCK_R": padded(self.total),
        }

    def blocks(self, x: Tensor) -> _launch.Blocks:
        constants = self.constants
        return _launch.lora_blocks(
            constants["DOT"], constants["IN"], constants["BLOCK_R"], _launch.architecture(x.device)
        )

    def gradient_blocks(self, x: Tensor) -> _launch.Blocks:
        constants = self.constants
        return _launch.lora_gradient_blocks(
            constants["DOT"], constants["IN"], constants["BLOCK_R"], _launch.architecture(x.device)
        )


def _contiguous(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)


def _frozen_gradient(grads: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """``Σ grads[i] · weights[i]``, in the dtype of the weights."""
    dtype = weights[0].dtype
    total = torch.mm(grads[0].to(dtype), weights[0])
    for grad, weight in zip(grads[1:], weights[1:], strict=True):
        total.addmm_(grad.to(dtype), weight)
    return total


def _low_rank_gradients(
    grads: tuple[Tensor, ...],
    x: Tensor,
    lora_A: tuple[Tensor, ...],
    lora_B: tuple[Tensor, ...],
    tokens: _launch.Tokens,
    scaling: float,
    grad_x: Tensor | None,
    grads_A: tuple[Tensor, ...],
    grads_B: tuple[Tensor, ...],
    shapes: "_Shapes",
) -> None:
    """Add the update's part to ``grad_x`` unless it is None, and fill ``grads_A`` and ``grads_B`` unless empty."""
    device, blocks, architecture = x.device, shapes.gradient_blocks(x), _launch.architecture(x.device)
    order = None
    if tokens.group is not None:
        order = torch.empty(tokens.sentences, dtype=torch.int32, device=device)
        _launch.launch(
            order_kernel, (tokens.sentences,), tokens.group, order, tokens.groups, tokens.sentences, BLOCK_S=SENTENCES,
            num_warps=1,
        )  # fmt: skip
    columns = [x.shape[1]] * len(grads_A) + [grad.shape[1] for grad in grads if grads_B]
    ranks = shapes.ranks * (bool(grads_A) + bool(grads_B))
    places = (0, *accumulate(rank * size for rank, size in zip(ranks, columns, strict=True)))
    splits = max(1, min(tokens.tiles(blocks.tokens), architecture.processors // tokens.groups))
    partial = torch.empty(tokens.groups, splits, places[-1], dtype=torch.float32, device=device)
    _launch.launch(
        tokens_kernel, (splits, tokens.groups),
        grads, x, lora_A, lora_B, tokens.group, order, grad_x, partial, tokens.length, tokens.groups,
        tokens.sentences, splits, scaling, **shapes.constants, PLACES_A=places[: len(grads_A)],
        PLACES_B=places[len(grads_A) : -1], TOTAL=places[-1], RANK=shapes.total, BLOCK_T=blocks.tokens,
        BLOCK_K=blocks.columns, BLOCK_S=SENTENCES, STAGES=blocks.num_stages, num_warps=blocks.num_warps,
        num_stages=blocks.num_stages, **_launch.all_registers(architecture),
    )  # fmt: skip
    if not ranks:
        return
    first_blocks = (0, *accumulate(triton.cdiv(size, _BLOCK) for size in columns))
    _launch.launch(
        weights_kernel, (first_blocks[-1], tokens.groups), partial, (*grads_A, *grads_B), splits,
        FIRST_BLOCKS=first_blocks, PLACES=places[:-1], ROWS=ranks, COLUMNS=tuple(columns),
        TRANSPOSED=(False,) * len(grads_A) + (True,) * len(grads_B), TOTAL=places[-1],
        BLOCK_C=_BLOCK, BLOCK_R=padded(max(ranks)), num_warps=4,
    )  # fmt: skip
