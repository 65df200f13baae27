"""The outer norm's moments of a token, from the few numbers of its bottleneck.

The norm reads ``v = U a + c`` with ``U = up_weight``, ``c = up_bias`` and ``a = act(...)``. With their columns' means ū
and c̄, and Uc and bc without them, once per group (``weights_kernel``):

    G = Ucᵀ Uc / hidden,  h = Ucᵀ bc / hidden,  q = bcᵀ bc / hidden
    mean of v = ū · a + c̄,  variance of v = aᵀ G a + 2 hᵀ a + q

so that no pass over the hidden units is made for them. Where v is small beside the terms that it is a sum of, these
lose what they are too: of a tile with such tokens v is written out (``written_out``), one more read of ``up_weight``.
"""

import triton
import triton.language as tl

from hyperloader.kernels._adapter_blocks import load_up
from hyperloader.kernels._math import join_moments, load_row

OWN = tl.constexpr(16)  # rows of G that a program of `weights_kernel` sums


def size(block: int) -> int:
    """Numbers of a group's moments: rows of ``block`` numbers, ū and then c̄ in two of them that q ends, h, and G."""
    return (3 + block) * block


@triton.jit
def weights_kernel(
    up_ptr, up_bias_ptr, out_ptr, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Write a group's moments (see ``size``); every program OWN rows of G, the first the rest."""
    group = tl.program_id(1).to(tl.int64)
    units = tl.arange(0, BLOCK_B)
    own = tl.program_id(0) * OWN + tl.arange(0, OWN)
    up_ptr += group * (HIDDEN * BOTTLENECK)
    up_bias_ptr += group * HIDDEN
    out_ptr += group * ((3 + BLOCK_B) * BLOCK_B)

    mean = tl.zeros((BLOCK_B,), tl.float32)
    own_mean = tl.zeros((OWN,), tl.float32)
    bias_sums = tl.zeros((BLOCK_H,), tl.float32)
    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        mean += tl.sum(load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(tl.float32), 0)
        own_mean += tl.sum(load_up(up_ptr, columns, own, HIDDEN, BOTTLENECK).to(tl.float32), 0)
        bias_sums += load_row(up_bias_ptr, columns, HIDDEN)
    mean /= HIDDEN
    own_mean /= HIDDEN
    bias_mean = tl.sum(bias_sums, 0) / HIDDEN

    gram = tl.zeros((OWN, BLOCK_B), tl.float32)
    cross = tl.zeros((BLOCK_B,), tl.float32)
    squares = tl.zeros((BLOCK_H,), tl.float32)
    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        there = (columns < HIDDEN)[:, None]
        up = load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(tl.float32)
        up = tl.where(there, up - mean[None, :], 0.0)
        own_up = load_up(up_ptr, columns, own, HIDDEN, BOTTLENECK).to(tl.float32)
        own_up = tl.where(there, own_up - own_mean[None, :], 0.0)
        bias = tl.where(columns < HIDDEN, load_row(up_bias_ptr, columns, HIDDEN) - bias_mean, 0.0)
        gram = tl.dot(tl.trans(own_up), up, gram, input_precision=EXACT)
        cross += tl.sum(up * bias[:, None], 0)
        squares += bias * bias
    tl.store(out_ptr + (3 + own[:, None]) * BLOCK_B + units[None, :], gram / HIDDEN)
    if tl.program_id(0) == 0:
        tl.store(out_ptr + units, mean, mask=units < BOTTLENECK)
        tl.store(out_ptr + BOTTLENECK, bias_mean)
        tl.store(out_ptr + 2 * BLOCK_B - 1, tl.sum(squares, 0) / HIDDEN)
        tl.store(out_ptr + 2 * BLOCK_B + units, cross / HIDDEN)


@triton.jit
def of_tokens(a, moments_ptr, BOTTLENECK: tl.constexpr, EXACT: tl.constexpr, BLOCK_B: tl.constexpr):
    """Of v of every token ``a`` [tokens, BLOCK_B]: mean, variance, ``G a + h``, and whether the terms cancel."""
    units = tl.arange(0, BLOCK_B)
    square = tl.load(moments_ptr + 2 * BLOCK_B - 1)
    cross = tl.load(moments_ptr + 2 * BLOCK_B + units)
    gram = tl.load(moments_ptr + (3 + units[:, None]) * BLOCK_B + units[None, :])
    diagonal = tl.load(moments_ptr + 3 * BLOCK_B + units * (BLOCK_B + 1))
    a = a.to(tl.float32)
    mean = tl.sum(a * load_row(moments_ptr, units, BOTTLENECK)[None, :], 1) + tl.load(moments_ptr + BOTTLENECK)
    along = tl.dot(a, gram, input_precision=EXACT) + cross[None, :]
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
