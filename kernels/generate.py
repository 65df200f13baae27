"""Weight generation in Triton: all heads in one launch, their gradients in one more that adds the condition's parts.

Same contract as ``hyperloader.reference.generate``. A program computes a block of one head's outputs, which are written
once; the parameters are read where they lie, once. The backward reads parameters and gradients once, and a program's
blocks of both kinds of gradients come from one read while the rows fit into a tile.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperloader.kernels import _launch
from hyperloader.kernels._math import load_block, store_block

__all__ = ["backward", "forward"]

_PROGRAMS = 2  # a processor, of the backward


@triton.jit
def _outputs(
    condition_ptr, weight_ptr, bias_ptr, out_ptr, count, block, SIZE: tl.constexpr, DIM: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    outputs = block * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    for start in range(0, DIM, BLOCK_K):
        dims = start + tl.arange(0, BLOCK_K)
        condition = load_block(condition_ptr, rows, rows < count, DIM, dims, dims < DIM).to(DOT)
        weight = load_block(weight_ptr, outputs.to(tl.int64), outputs < SIZE, DIM, dims, dims < DIM).to(DOT)
        total = tl.dot(condition, tl.trans(weight), total, input_precision=PRECISION)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + outputs, mask=outputs < SIZE, other=0.0).to(tl.float32)[None, :]
    store_block(out_ptr, rows, rows < count, SIZE, outputs, outputs < SIZE, total)


@triton.jit(do_not_specialize=["count"])
def forward_kernel(
    condition_ptr, weights, biases, outs, count, FIRST_BLOCKS: tl.constexpr, SIZES: tl.constexpr, DIM: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``outs[i] = condition · weights[i]ᵀ + biases[i]``."""
    block = tl.program_id(0)
    for i in tl.static_range(len(weights)):
        if block >= FIRST_BLOCKS[i] and block < FIRST_BLOCKS[i + 1]:
            _outputs(
                condition_ptr, weights[i], biases[i], outs[i], count, block - FIRST_BLOCKS[i], SIZES[i], DIM, DOT,
                PRECISION, BLOCK_T, BLOCK_N, BLOCK_K,
            )  # fmt: skip


@triton.jit
def _head_gradient(
    grad_ptr, condition_ptr, grad_weight_ptr, grad_bias_ptr, count, block, SIZE: tl.constexpr, DIM: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    outputs = block * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    grad_weight = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    grad_bias = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, count, BLOCK_T):
        rows = (start + tl.arange(0, BLOCK_T)).to(tl.int64)
        grad = load_block(grad_ptr, rows, rows < count, SIZE, outputs, outputs < SIZE)
        condition = load_block(condition_ptr, rows, rows < count, DIM, dims, dims < DIM).to(DOT)
        grad_weight = tl.dot(tl.trans(grad.to(DOT)), condition, grad_weight, input_precision=PRECISION)
        grad_bias += tl.sum(grad.to(tl.float32), 0)
    store_block(grad_weight_ptr, outputs.to(tl.int64), outputs < SIZE, DIM, dims, dims < DIM, grad_weight)
    if grad_bias_ptr is not None:  # noqa: SIM102, this is decided when the kernel is compiled
        if tl.program_id(2) == 0:
            tl.store(grad_bias_ptr + outputs, grad_bias, mask=outputs < SIZE)


@triton.jit(do_not_specialize=["count", "shares"])
def backward_kernel(
    grads, condition_ptr, weights, grad_weights, grad_biases, partial_ptr, count, shares,
    FIRST_BLOCKS: tl.constexpr, SIZES: tl.constexpr, DIM: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Over every ``shares``-th block of outputs: ``Σ grads[i] · weights[i]``, (shares, rows, DIM) float32, and
    ``grads[i]ᵀ · condition`` with the sums of the columns of ``grads[i]``, by one of the tiles of rows each."""
    tile = tl.program_id(0)
    share = tl.program_id(1)
    rows = tile.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    dims = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    for i in tl.static_range(len(grads)):
        # blocks are dealt in turn from head to head
        first = (share + shares - FIRST_BLOCKS[i] % shares) % shares
        for block in range(first, FIRST_BLOCKS[i + 1] - FIRST_BLOCKS[i], shares):
            outputs = block * BLOCK_N + tl.arange(0, BLOCK_N)
            grad = load_block(grads[i], rows, rows < count, SIZES[i], outputs, outputs < SIZES[i]).to(DOT)
            weight = load_block(weights[i], outputs.to(tl.int64), outputs < SIZES[i], DIM, dims, dims < DIM).to(DOT)
            total = tl.dot(grad, weight, total, input_precision=PRECISION)
            if block % tl.num_programs(0) == tile:  # what was just read is read again from a cache
                _head_gradient(
                    grads[i], condition_ptr, grad_weights[i], grad_biases[i], count, block, SIZES[i], DIM, DOT,
                    PRECISION, BLOCK_T, BLOCK_N, BLOCK_K,
                )  # fmt: skip
    partial_ptr += share.to(tl.int64) * count * DIM
    store_block(partial_ptr, rows, rows < count, DIM, dims, dims < DIM, total)


@triton.jit(do_not_specialize=["shares", "size"])
def shares_kernel(partial_ptr, out_ptr, shares, size, BLOCK: tl.constexpr):
    """``out = Σ partial[share]``, in order."""
    numbers = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for share in range(shares):
        total += tl.load(partial_ptr + share * size + numbers, mask=numbers < size, other=0.0)
    tl.store(out_ptr + numbers, total.to(out_ptr.dtype.element_ty), mask=numbers < size)


def forward(
    condition: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], dtype: torch.dtype | None
) -> list[Tensor]:
    """Return one tensor (rows, n_i) per head, in ``dtype`` or else the dtype of ``condition``."""
    dtype = condition.dtype if dtype is None else dtype
    _launch.check_dtype("generate", condition.dtype)
    _launch.check_dtype("generate", dtype)
    rows = condition.shape[0]
    condition = condition.contiguous()
    weights = tuple(weight.contiguous() for weight in weights)
    biases = tuple(None if bias is None else bias.contiguous() for bias in biases)
    outs = tuple(torch.empty(rows, weight.shape[0], dtype=dtype, device=condition.device) for weight in weights)
    heads = _Heads(condition, weights)
    if rows and heads.blocks:
        _launch.launch(
            forward_kernel, (heads.blocks, triton.cdiv(rows, heads.rows)), condition, weights, biases, outs, rows,
            **heads.constants,
        )  # fmt: skip
    return list(outs)


def backward(
    grads: Sequence[Tensor], condition: Tensor, weights: Sequence[Tensor], has_bias: Sequence[bool]
) -> list[Tensor]:
    """Return the gradients of ``condition``, of every weight and, in float32, of every bias."""
    _launch.check_dtype("generate", condition.dtype)
    rows, dim = condition.shape
    condition = condition.contiguous()
    weights = tuple(weight.contiguous() for weight in weights)
    grads = tuple(grad.contiguous() for grad in grads)
    device = condition.device
    grad_condition = torch.empty_like(condition)
    grad_weights = tuple(torch.empty_like(weight) for weight in weights)
    grad_biases = tuple(
        torch.empty(weight.shape[0], dtype=torch.float32, device=device) if has else None
        for weight, has in zip(weights, has_bias, strict=True)
    )
    results = [grad_condition, *grad_weights, *(grad for grad in grad_biases if grad is not None)]
    heads = _Heads(condition, weights, *grads)
    if not rows or not heads.blocks:
        for result in results:
            result.zero_()
        return results
    if not dim:  # the biases' gradients are all that has any elements
        for bias, grad in zip(grad_biases, grads, strict=True):
            if bias is not None:
                torch.sum(grad, 0, dtype=torch.float32, out=bias)
        return results

    tiles, columns = triton.cdiv(rows, heads.rows), triton.cdiv(dim, heads.constants["BLOCK_K"])
    programs = _PROGRAMS * _launch.architecture(device).processors
    shares = min(heads.blocks, triton.cdiv(programs, tiles * columns))
    partial = torch.empty(shares, rows, dim, dtype=torch.float32, device=device)
    _launch.launch(
        backward_kernel, (tiles, shares, columns), grads, condition, weights, grad_weights, grad_biases, partial, rows,
        shares, **heads.constants, **_launch.all_registers(_launch.architecture(device)),
    )  # fmt: skip
    _launch.launch(
        shares_kernel, (triton.cdiv(rows * dim, 256),), partial, grad_condition, shares, rows * dim, BLOCK=256,
        num_warps=4,
    )  # fmt: skip
    return results


class _Heads:
    """Sizes of the heads, as the kernels take them."""

    def __init__(self, condition: Tensor, weights: Sequence[Tensor], *grads: Tensor):
        dim = condition.shape[1]
        dot, precision = _launch.product_dtype(condition, *weights, *grads)
        blocks = _launch.generate_blocks(dot, _launch.architecture(condition.device))
        first_blocks = (0, *accumulate(triton.cdiv(weight.shape[0], blocks.columns) for weight in weights))
        self.blocks = first_blocks[-1]
        self.rows = blocks.tokens
        self.constants = {
            "FIRST_BLOCKS": first_blocks,
            "SIZES": tuple(weight.shape[0] for weight in weights),
            "DIM": dim,
            "DOT": dot,
            "PRECISION": precision,
            "BLOCK_T": blocks.tokens,
            "BLOCK_N": blocks.columns,
            "BLOCK_K": min(32 if dot == tl.float32 else 64, _launch.padded(dim)),
            "num_warps": blocks.num_warps,
            "num_stages": blocks.num_stages,
        }
