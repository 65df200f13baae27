"""What the adapter's forward and backward compute alike, for one block of hidden columns."""

import triton
import triton.language as tl

from hyperloader.kernels._math import load_block, load_row


@triton.jit
def load_up(up_ptr, columns, units, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr):
    """A block of ``up_weight`` [columns, units]."""
    return load_block(up_ptr, columns, columns < HIDDEN, BOTTLENECK, units, units < BOTTLENECK)


@triton.jit
def load_down(down_ptr, columns, units, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr):
    """A block of ``down_weight`` [units, columns]."""
    return load_block(down_ptr, units, units < BOTTLENECK, HIDDEN, columns, columns < HIDDEN)


@triton.jit
def up_means(
    up_ptr, up_bias_ptr, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr
):
    """Means over the hidden units: of the columns of ``up_weight`` [BLOCK_B], and of ``up_bias``."""
    units = tl.arange(0, BLOCK_B)
    of_up = tl.zeros((BLOCK_B,), tl.float32)
    of_bias = tl.zeros((BLOCK_H,), tl.float32)
    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        of_up += tl.sum(load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(tl.float32), 0)
        of_bias += load_row(up_bias_ptr, columns, HIDDEN)
    return of_up / HIDDEN, tl.sum(of_bias, 0) / HIDDEN


@triton.jit
def centred_up(
    up_ptr, up_bias_ptr, up_mean, bias_mean, columns, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr,
    BLOCK_B: tl.constexpr,
):  # fmt: skip
    """``up_weight`` [columns, BLOCK_B] and ``up_bias`` [columns] less their means, zero outside; float32.

    Centring first makes the variance a sum of squares, so nothing cancels.
    """
    units = tl.arange(0, BLOCK_B)
    in_columns = columns < HIDDEN
    up = load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(tl.float32)
    bias = load_row(up_bias_ptr, columns, HIDDEN)
    return tl.where(in_columns[:, None], up - up_mean[None, :], 0.0), tl.where(in_columns, bias - bias_mean, 0.0)


@triton.jit
def row_moments(x_ptr, rows, in_rows, eps, HIDDEN: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr):
    """Mean and 1 / standard deviation of rows of ``x``, block by block: the moments of two parts make those of both."""
    mean = tl.zeros((BLOCK_T,), tl.float32)
    squares = tl.zeros((BLOCK_T,), tl.float32)
    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        x = load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN).to(tl.float32)
        count = tl.sum((columns < HIDDEN).to(tl.float32), 0)
        own = tl.sum(x, 1) / count
        far = tl.where((columns < HIDDEN)[None, :], x - own[:, None], 0.0)
        step = own - mean
        share = count / (start + count)
        mean += step * share
        squares += tl.sum(far * far, 1) + step * step * share * start
    return mean, tl.rsqrt(squares / HIDDEN + eps)
