"""The outer norm's moments of a token, from the few numbers of its bottleneck.

The norm reads ``v = U a + c`` with ``U = up_weight``, ``c = up_bias`` and ``a = act(...)``. With their columns' means ū
and c̄, and Uc and bc without them, once per group (``parts_kernel``, ``join_kernel``):

    G = Ucᵀ Uc / hidden,  h = Ucᵀ bc / hidden,  q = bcᵀ bc / hidden
    mean of v = ū · a + c̄,  variance of v = aᵀ G a + 2 hᵀ a + q

so that no pass over the hidden units is made for them. Where v is small beside the terms that it is a sum of, these
lose what they are too: of a tile with such tokens v is written out (``written_out``), one more read of ``up_weight``.

The sums over the hidden units are made in parts, side by side, each about the means of its own rows. Joined, they are
about those of all: Σ (u - ū)(u - ū)ᵀ is the sum of the parts' own and of n (ūₚ - ū)(ūₚ - ū)ᵀ of a part of n rows.
"""

import triton
import triton.language as tl

from hyperloader.kernels._adapter_blocks import load_up
from hyperloader.kernels._math import activate, join_moments, load_block, load_row

PARTS = 32  # of the hidden units, at most: `join_kernel` holds the means of all
_WIDE = tl.constexpr(32)  # bottleneck units of a token beyond which a product is made in steps


def size(block: int) -> int:
    """Numbers of a group's moments: rows of ``block`` numbers, ū and then c̄ in two of them that q ends, h, and G."""
    return (3 + block) * block


@triton.jit
def parts_kernel(
    up_ptr, up_bias_ptr, parts_ptr, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, EXACT: tl.constexpr,
    ROWS: tl.constexpr, PARTS: tl.constexpr, OWN: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Write the moments (see ``size``) of ROWS hidden units; every program OWN rows of G, the first the rest.

    ``parts`` (groups, PARTS, size): means, and sums where the moments are divided by the hidden units.
    """
    first = tl.program_id(0) * ROWS
    group = tl.program_id(2).to(tl.int64)
    units = tl.arange(0, BLOCK_B)
    own = tl.program_id(1) * OWN + tl.arange(0, OWN)
    up_ptr += group * (HIDDEN * BOTTLENECK)
    up_bias_ptr += group * HIDDEN
    parts_ptr += (group * PARTS + tl.program_id(0)) * ((3 + BLOCK_B) * BLOCK_B)

    # added up before any is reduced, so that all loads are on their way at once
    sums = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
    own_sums = tl.zeros((BLOCK_H, OWN), tl.float32)
    bias_sums = tl.zeros((BLOCK_H,), tl.float32)
    for start in tl.static_range(0, ROWS, BLOCK_H):
        columns = first + start + tl.arange(0, BLOCK_H)
        sums += load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(tl.float32)
        own_sums += load_up(up_ptr, columns, own, HIDDEN, BOTTLENECK).to(tl.float32)
        bias_sums += load_row(up_bias_ptr, columns, HIDDEN)
    count = tl.minimum(HIDDEN - first, ROWS).to(tl.float32)
    mean = tl.sum(sums, 0) / count
    own_mean = tl.sum(own_sums, 0) / count
    bias_mean = tl.sum(bias_sums, 0) / count

    gram = tl.zeros((OWN, BLOCK_B), tl.float32)
    cross = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
    squares = tl.zeros((BLOCK_H,), tl.float32)
    for start in tl.range(0, ROWS, BLOCK_H, num_stages=1):
        columns = first + start + tl.arange(0, BLOCK_H)
        there = (columns < HIDDEN)[:, None]
        up = load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(tl.float32)
        up = tl.where(there, up - mean[None, :], 0.0)
        own_up = load_up(up_ptr, columns, own, HIDDEN, BOTTLENECK).to(tl.float32)
        own_up = tl.where(there, own_up - own_mean[None, :], 0.0)
        bias = tl.where(columns < HIDDEN, load_row(up_bias_ptr, columns, HIDDEN) - bias_mean, 0.0)
        gram = tl.dot(tl.trans(own_up), up, gram, input_precision=EXACT)
        cross += up * bias[:, None]
        squares += bias * bias
    tl.store(parts_ptr + (3 + own[:, None]) * BLOCK_B + units[None, :], gram)
    if tl.program_id(1) == 0:
        tl.store(parts_ptr + units, mean, mask=units < BOTTLENECK)
        tl.store(parts_ptr + BOTTLENECK, bias_mean)
        tl.store(parts_ptr + 2 * BLOCK_B - 1, tl.sum(squares, 0))
        tl.store(parts_ptr + 2 * BLOCK_B + units, tl.sum(cross, 0))


@triton.jit
def join_kernel(
    parts_ptr, out_ptr, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Write a group's moments; every program one row of G, the first h and the rest."""
    size: tl.constexpr = (3 + BLOCK_B) * BLOCK_B
    group = tl.program_id(1).to(tl.int64)
    row = 2 + tl.program_id(0)
    of_bias = row == 2
    unit = tl.where(of_bias, BOTTLENECK, row - 3)  # whose products with all others are joined; c̄ lies behind the ū
    parts_ptr += group * PARTS * size
    out_ptr += group * size
    units = tl.arange(0, BLOCK_B)
    parts = tl.arange(0, BLOCK_P)
    there = parts < PARTS
    share = tl.where(there, tl.minimum(HIDDEN - parts * ROWS, ROWS), 0).to(tl.float32) / HIDDEN

    sums = load_block(parts_ptr + row * BLOCK_B, parts, there, size, units, units < BLOCK_B)
    means = load_block(parts_ptr, parts, there, size, units, units < BOTTLENECK)
    own = tl.load(parts_ptr + parts * size + unit, mask=there & (of_bias | (unit < BOTTLENECK)), other=0.0)
    mean = tl.sum(means * share[:, None], 0)
    own_mean = tl.sum(own * share, 0)
    own = (own - own_mean) * share
    joined = tl.sum(sums, 0) / HIDDEN + tl.sum((means - mean[None, :]) * own[:, None], 0)
    tl.store(out_ptr + row * BLOCK_B + units, joined)
    if of_bias:
        bias_means = tl.load(parts_ptr + parts * size + BOTTLENECK, mask=there, other=0.0)
        squares = tl.load(parts_ptr + parts * size + 2 * BLOCK_B - 1, mask=there, other=0.0)
        square = tl.sum(squares, 0) / HIDDEN + tl.sum((bias_means - own_mean) * own, 0)
        tl.store(out_ptr + units, mean, mask=units < BOTTLENECK)
        tl.store(out_ptr + BOTTLENECK, own_mean)
        tl.store(out_ptr + 2 * BLOCK_B - 1, square)


@triton.jit
def of_tokens(
    a, pre_ptr, rows, in_rows, moments_ptr, BOTTLENECK: tl.constexpr, ACTIVATION: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Of v of every token ``a`` [tokens, BLOCK_B]: mean, variance, ``G a + h``, and whether the terms cancel.

    ``pre`` holds what ``a`` is the activation of. Of a wide bottleneck the product with G is made in steps, for which
    ``a`` is computed from it again: all of G in three parts is more than a small GPU's shared memory.
    """
    units = tl.arange(0, BLOCK_B)
    square = tl.load(moments_ptr + 2 * BLOCK_B - 1)
    cross = tl.load(moments_ptr + 2 * BLOCK_B + units)
    diagonal = tl.load(moments_ptr + 3 * BLOCK_B + units * (BLOCK_B + 1))
    if BLOCK_B <= _WIDE:
        gram = tl.load(moments_ptr + (3 + units[:, None]) * BLOCK_B + units[None, :])
        along = tl.dot(a.to(tl.float32), gram, input_precision=EXACT) + cross[None, :]
    else:
        along = tl.zeros(a.shape, tl.float32) + cross[None, :]
        for start in tl.range(0, BLOCK_B, _WIDE, num_stages=1):
            some = start + tl.arange(0, _WIDE)
            pre = load_block(pre_ptr, rows, in_rows, BOTTLENECK, some, some < BOTTLENECK)
            gram = tl.load(moments_ptr + (3 + some[:, None]) * BLOCK_B + units[None, :])
            some_a = activate(pre, ACTIVATION).to(a.dtype).to(tl.float32)
            along = tl.dot(some_a, gram, along, input_precision=EXACT)
    a = a.to(tl.float32)
    mean = tl.sum(a * load_row(moments_ptr, units, BOTTLENECK)[None, :], 1) + tl.load(moments_ptr + BOTTLENECK)
    variance = tl.sum(a * (along + cross[None, :]), 1) + square
    terms = tl.sum(a * a * diagonal[None, :], 1) + square
    return mean, variance, along, (32 * variance >= terms) == 0


@triton.jit
def written_out(
    a, up_ptr, up_bias_ptr, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Mean and variance of v of every token, from v itself."""
    mean = tl.zeros((BLOCK_T,), tl.float32)
    squares = tl.zeros((BLOCK_T,), tl.float32)
    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        up = load_up(up_ptr, columns, tl.arange(0, BLOCK_B), HIDDEN, BOTTLENECK).to(a.dtype)
        v = tl.dot(a, tl.trans(up), input_precision=PRECISION) + load_row(up_bias_ptr, columns, HIDDEN)[None, :]
        mean, squares = join_moments(mean, squares, v, start, columns, HIDDEN)
    return mean, squares / HIDDEN
