"""The adapter's forward kernel.

A program holds BLOCK_T tokens of one group and their bottleneck. The norm's input ``v = up_weight · a + up_bias`` is
never written: with centred columns its mean is zero, its variance is summed in a pass that reads the weight alone, and
the last pass makes it again. Where BLOCK_H covers ``hidden``, the passes are one block each, and what they load twice
is loaded once.
"""

import triton
import triton.language as tl

from hyperloader.kernels._adapter_blocks import centred_up, load_down, load_up, row_moments, up_means
from hyperloader.kernels._math import activate, load_block, load_row, store_block
from hyperloader.kernels._tokens import tile_of


@triton.jit(do_not_specialize=["length", "groups"])
def forward_kernel(
    x_ptr, down_ptr, down_bias_ptr, up_ptr, up_bias_ptr, outer_ptr, outer_bias_ptr, inner_ptr, inner_bias_ptr,
    group_ptr, y_ptr, pre_ptr, length, groups, eps,
    HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, ACTIVATION: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """``outer_ptr`` is None without a norm after the up projection, ``inner_ptr`` without one before the down."""
    rows, in_rows, group = tile_of(group_ptr, length, groups, BLOCK_T)
    units = tl.arange(0, BLOCK_B)
    down_ptr += group * (HIDDEN * BOTTLENECK)
    up_ptr += group * (HIDDEN * BOTTLENECK)
    up_bias_ptr += group * HIDDEN
    if inner_ptr is not None:
        inner_ptr += group * HIDDEN
        inner_bias_ptr += group * HIDDEN
        mean, inner_rstd = row_moments(x_ptr, rows, in_rows, eps, HIDDEN, BLOCK_T, BLOCK_H)

    pre = tl.zeros((BLOCK_T, BLOCK_B), tl.float32)
    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        z = load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN)
        if inner_ptr is not None:
            standard = (z.to(tl.float32) - mean[:, None]) * inner_rstd[:, None]
            gamma, beta = load_row(inner_ptr, columns, HIDDEN), load_row(inner_bias_ptr, columns, HIDDEN)
            z = standard * gamma[None, :] + beta[None, :]
        down = load_down(down_ptr, columns, units, HIDDEN, BOTTLENECK)
        pre = tl.dot(z.to(DOT), tl.trans(down.to(DOT)), pre, input_precision=PRECISION)
    pre += load_row(down_bias_ptr + group * BOTTLENECK, units, BOTTLENECK)[None, :]
    a = activate(pre, ACTIVATION).to(DOT)

    if outer_ptr is not None:
        outer_ptr += group * HIDDEN
        outer_bias_ptr += group * HIDDEN
        up_mean, bias_mean = up_means(up_ptr, up_bias_ptr, HIDDEN, BOTTLENECK, BLOCK_H, BLOCK_B)
        squares = tl.zeros((BLOCK_T,), tl.float32)
        for start in range(0, HIDDEN, BLOCK_H):
            columns = start + tl.arange(0, BLOCK_H)
            up, bias = centred_up(up_ptr, up_bias_ptr, up_mean, bias_mean, columns, HIDDEN, BOTTLENECK, BLOCK_B)
            v = tl.dot(a, tl.trans(up.to(DOT)), input_precision=PRECISION) + bias[None, :]
            squares += tl.sum(v * v, 1)
        rstd = tl.rsqrt(squares / HIDDEN + eps)

    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        if outer_ptr is not None:
            up, bias = centred_up(up_ptr, up_bias_ptr, up_mean, bias_mean, columns, HIDDEN, BOTTLENECK, BLOCK_B)
            v = tl.dot(a, tl.trans(up.to(DOT)), input_precision=PRECISION) + bias[None, :]
            gamma, beta = load_row(outer_ptr, columns, HIDDEN), load_row(outer_bias_ptr, columns, HIDDEN)
            v = v * rstd[:, None] * gamma[None, :] + beta[None, :]
        else:
            up = load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK)
            v = tl.dot(a, tl.trans(up.to(DOT)), input_precision=PRECISION)
            v += load_row(up_bias_ptr, columns, HIDDEN)[None, :]
        x = load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN).to(tl.float32)
        store_block(y_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN, x + v)
    store_block(pre_ptr, rows, in_rows, BOTTLENECK, units, units < BOTTLENECK, pre)
