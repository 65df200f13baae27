"""The adapter's forward kernel.

A program holds BLOCK_T tokens of one group and their bottleneck, and reads ``down_weight`` and ``up_weight`` once. The
norm's input ``v = up_weight · a + up_bias`` is never written, and its moments are known before it (see
``_adapter_moments.py``). With HELD, x stays in registers from the first product to the result and is read once;
otherwise it is read again, block by block.
"""

import triton
import triton.language as tl

from hyperloader.kernels._adapter_blocks import load_down, load_up
from hyperloader.kernels._adapter_moments import of_tokens, written_out
from hyperloader.kernels._math import activate, join_moments, load_block, load_row, store_block
from hyperloader.kernels._tokens import tile_of


@triton.jit(do_not_specialize=["length", "groups"])
def forward_kernel(
    x_ptr, down_ptr, down_bias_ptr, up_ptr, up_bias_ptr, outer_ptr, outer_bias_ptr, inner_ptr, inner_bias_ptr,
    moments_ptr, group_ptr, y_ptr, pre_ptr, length, groups, eps,
    HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, ACTIVATION: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
    HELD: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """``outer_ptr`` is None without a norm after the up projection, ``inner_ptr`` without one before the down, and
    ``moments_ptr`` where every token's outer norm is written out."""
    rows, in_rows, group = tile_of(group_ptr, length, groups, BLOCK_T)
    units = tl.arange(0, BLOCK_B)
    down_ptr += group * (HIDDEN * BOTTLENECK)
    up_ptr += group * (HIDDEN * BOTTLENECK)
    up_bias_ptr += group * HIDDEN
    xs = ()
    if HELD:
        for start in tl.static_range(0, HIDDEN, BLOCK_H):
            columns = start + tl.arange(0, BLOCK_H)
            xs += (load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN),)  # type: ignore[assignment]
    if inner_ptr is not None:
        inner_ptr += group * HIDDEN
        inner_bias_ptr += group * HIDDEN
        mean = tl.zeros((BLOCK_T,), tl.float32)
        squares = tl.zeros((BLOCK_T,), tl.float32)
        for start in (tl.static_range if HELD else tl.range)(0, HIDDEN, BLOCK_H):
            columns = start + tl.arange(0, BLOCK_H)
            x = xs[start // BLOCK_H] if HELD else load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN)
            mean, squares = join_moments(mean, squares, x.to(tl.float32), start, columns, HIDDEN)
        rstd = tl.rsqrt(squares / HIDDEN + eps)
    pre = tl.zeros((BLOCK_T, BLOCK_B), tl.float32)
    for start in (tl.static_range if HELD else tl.range)(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        x = xs[start // BLOCK_H] if HELD else load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN)
        if inner_ptr is not None:
            gamma, beta = load_row(inner_ptr, columns, HIDDEN), load_row(inner_bias_ptr, columns, HIDDEN)
            x = (x.to(tl.float32) - mean[:, None]) * rstd[:, None] * gamma[None, :] + beta[None, :]
        down = load_down(down_ptr, columns, units, HIDDEN, BOTTLENECK).to(DOT)
        pre = tl.dot(x.to(DOT), tl.trans(down), pre, input_precision=PRECISION)
    pre += load_row(down_bias_ptr + group * BOTTLENECK, units, BOTTLENECK)[None, :]
    store_block(pre_ptr, rows, in_rows, BOTTLENECK, units, units < BOTTLENECK, pre)
    a = activate(pre, ACTIVATION).to(DOT)

    if outer_ptr is not None:
        outer_ptr += group * HIDDEN
        outer_bias_ptr += group * HIDDEN
        if moments_ptr is None:
            mean, variance = written_out(
                a, up_ptr, up_bias_ptr, HIDDEN, BOTTLENECK, PRECISION, BLOCK_T, BLOCK_H, BLOCK_B
            )
        else:
            moments_ptr += group * ((3 + BLOCK_B) * BLOCK_B)
            tl.debug_barrier()  # all of the tile's `pre` is written
            mean, variance, _, cancelled = of_tokens(
                a, pre_ptr, rows, in_rows, moments_ptr, BOTTLENECK, ACTIVATION, EXACT, BLOCK_B
            )
            if tl.max((cancelled & in_rows).to(tl.int32), 0) > 0:
                exact_mean, exact = written_out(
                    a, up_ptr, up_bias_ptr, HIDDEN, BOTTLENECK, PRECISION, BLOCK_T, BLOCK_H, BLOCK_B
                )
                mean = tl.where(cancelled, exact_mean, mean)
                variance = tl.where(cancelled, exact, variance)
        rstd = tl.rsqrt(variance + eps)

    for start in (tl.static_range if HELD else tl.range)(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        x = xs[start // BLOCK_H] if HELD else load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN)
        up = load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(DOT)
        v = tl.dot(a, tl.trans(up), input_precision=PRECISION) + load_row(up_bias_ptr, columns, HIDDEN)[None, :]
        if outer_ptr is not None:
            gamma, beta = load_row(outer_ptr, columns, HIDDEN), load_row(outer_bias_ptr, columns, HIDDEN)
            v = (v - mean[:, None]) * rstd[:, None] * gamma[None, :] + beta[None, :]
        store_block(y_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN, x.to(tl.float32) + v)
