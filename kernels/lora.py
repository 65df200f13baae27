"""LoRA linears in Triton: PyTorch's library makes the frozen products, one launch adds all updates into them.

``forward`` and ``backward`` have the contract of ``hyperloader.reference.lora``; ``forward_many`` and ``backward_many``
take several linears of one ``x``, whose updates are computed together.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
from torch import Tensor
from torch.nn import functional

from hyperloader.kernels import _launch
from hyperloader.kernels._launch import padded
from hyperloader.kernels._lora import forward_kernel, tokens_kernel, weights_kernel
from hyperloader.kernels._sums import SENTENCES, Product, sums

__all__ = ["backward", "backward_many", "forward", "forward_many"]

_BLOCK = 128  # columns of a program that adds the shares of a sum


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor, group: Tensor | None, scaling: float
) -> Tensor:
    """Return ``y`` (..., out_features) in the dtype of ``x``."""
    return forward_many(x, [weight], [bias], [lora_A], [lora_B], group, scaling)[0]


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    lora_A: Tensor,
    lora_B: Tensor,
    group: Tensor | None,
    scaling: float,
    needed: Sequence[bool],
) -> list[Tensor]:
    """Return those gradients of x, weight, bias, lora_A and lora_B that ``needed`` asks for, in this order."""
    return backward_many([grad], x, [weight], [lora_A], [lora_B], group, scaling, [True], needed)


def forward_many(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    group: Tensor | None,
    scaling: float,
) -> list[Tensor]:
    """Return ``y`` (..., out_features) of every linear, in the dtype of ``x``."""
    shapes = _Shapes(x, lora_A, lora_B)
    x, lora_A, lora_B = x.contiguous(), _contiguous(lora_A), _contiguous(lora_B)
    ys = [
        functional.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
        for weight, bias in zip(weights, biases, strict=True)
    ]
    tokens = _launch.tokens_of(x, group, lora_A[0].shape[0])
    if tokens.count:
        blocks = shapes.blocks(x)
        _launch.launch(
            forward_kernel, (tokens.tiles(blocks.tokens),),
            x, lora_A, lora_B, tuple(ys), tokens.group, tokens.length, tokens.groups, scaling,
            **shapes.constants, BLOCK_T=blocks.tokens, BLOCK_K=blocks.columns,
            num_warps=blocks.num_warps, num_stages=blocks.num_stages,
        )  # fmt: skip
    return [y.to(x.dtype) for y in ys]


def backward_many(
    grads: Sequence[Tensor],
    x: Tensor,
    weights: Sequence[Tensor],
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    group: Tensor | None,
    scaling: float,
    has_bias: Sequence[bool],
    needed: Sequence[bool],
) -> list[Tensor]:
    """Return those gradients that ``needed`` asks for: of x, the weights, the biases there are, lora_A and lora_B."""
    shapes = _Shapes(x, lora_A, lora_B)
    x, grads = x.contiguous(), _contiguous(grads)
    lora_A, lora_B = _contiguous(lora_A), _contiguous(lora_B)
    flat_x, flat_grads = x.flatten(0, -2), tuple(grad.flatten(0, -2) for grad in grads)
    count, biases = len(weights), sum(has_bias)
    asked = iter(needed)
    needs_x = next(asked)
    needs_weights, needs_biases, needs_A, needs_B = ([next(asked) for _ in range(n)] for n in (count, biases, count, count))

    results = []
    grad_x = None
    if needs_x:
        grad_x = _frozen_gradient(flat_grads, weights, x)
        results.append(grad_x)
    results += [
        (grad.mT @ flat_x.to(grad.dtype)).to(weight.dtype)
        for grad, weight, needs in zip(flat_grads, weights, needs_weights, strict=True)
        if needs
    ]
    biased = [grad for grad, has in zip(flat_grads, has_bias, strict=True) if has]
    results += [grad.sum(0, dtype=torch.float32) for grad, needs in zip(biased, needs_biases, strict=True) if needs]
    of_lora = [torch.empty_like(one) for one, needs in zip((*lora_A, *lora_B), (*needs_A, *needs_B), strict=True) if needs]
    results += of_lora
    tokens = _launch.tokens_of(x, group, lora_A[0].shape[0])
    if tokens.count == 0:
        for grad in of_lora:
            grad.zero_()
    elif needs_x or of_lora:
        _low_rank_gradients(
            flat_grads, flat_x, lora_A, lora_B, tokens, scaling, grad_x, needs_A, needs_B, of_lora, shapes
        )
    if needs_x:
        results[0] = grad_x.to(x.dtype).view(x.shape)
    return results


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
        return _launch.lora_blocks(self.constants["DOT"], _launch.architecture(x.device))


def _contiguous(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)


def _frozen_gradient(grads: Sequence[Tensor], weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """``Σ grads[i] · weights[i]``, in the dtype of the weights."""
    total = None
    for grad, weight in zip(grads, weights, strict=True):
        grad = grad.to(weight.dtype)
        total = torch.mm(grad, weight) if total is None else torch.addmm(total, grad, weight)
    return total


def _low_rank_gradients(
    grads: Sequence[Tensor],
    x: Tensor,
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    tokens: _launch.Tokens,
    scaling: float,
    grad_x: Tensor | None,
    needs_A: Sequence[bool],
    needs_B: Sequence[bool],
    results: Sequence[Tensor],
    shapes: _Shapes,
) -> None:
    """Add the update's part to ``grad_x``, and fill ``results``: the gradients needed of lora_A, then of lora_B."""
    device, blocks = x.device, shapes.blocks(x)
    section = triton.cdiv(shapes.total, 8) * 8
    number = _launch.scratch_dtype(x)
    units = torch.empty(tokens.count, 2 * section, dtype=number, device=device) if results else None
    order = None
    if results and tokens.group is not None:
        order = torch.empty(tokens.sentences, dtype=torch.int32, device=device)
    _launch.launch(
        tokens_kernel, (tokens.tiles(blocks.tokens),),
        grads, x, lora_A, lora_B, tokens.group, grad_x, units, order, tokens.length, tokens.groups, tokens.sentences,
        scaling, **shapes.constants, SECTION=section, NEEDS_B=any(needs_B), BLOCK_T=blocks.tokens,
        BLOCK_K=blocks.columns, BLOCK_S=SENTENCES, num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    if not results:
        return

    products, places, rows, columns, transposed = [], [], [], [], []
    if any(needs_A):
        products.append(Product(x, units[:, : shapes.total]))
    for rank, first, needs in zip(shapes.ranks, shapes.firsts, needs_A, strict=True):
        if needs:
            places.append(first * x.shape[1])
            rows.append(rank)
            columns.append(x.shape[1])
            transposed.append(False)
    for grad, rank, first, needs in zip(grads, shapes.ranks, shapes.firsts, needs_B, strict=True):
        if needs:
            places.append(sum(product.size for product in products))
            products.append(Product(grad, units[:, section + first : section + first + rank]))
            rows.append(rank)
            columns.append(grad.shape[1])
            transposed.append(True)
    architecture = _launch.architecture(device)
    partial = sums(products, tokens, order, _launch.sums_blocks(x.dtype, architecture), architecture)
    first_blocks = (0, *accumulate(triton.cdiv(size, _BLOCK) for size in columns))
    _launch.launch(
        weights_kernel, (first_blocks[-1], tokens.groups), partial, tuple(results), partial.shape[1],
        FIRST_BLOCKS=first_blocks, PLACES=tuple(places), ROWS=tuple(rows), COLUMNS=tuple(columns),
        TRANSPOSED=tuple(transposed), TOTAL=partial.shape[2], BLOCK_C=_BLOCK, BLOCK_R=padded(max(rows)), num_warps=4,
    )  # fmt: skip
