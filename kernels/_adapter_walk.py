"""The adapter's forward kernel where a program keeps both matrices of a group.

A program walks over neighbouring tiles of BLOCK_T tokens. It reads a group's weights before the loop over that group's
tiles, in which nothing changes them: there the compiler keeps them in shared memory (NVIDIA) or in registers (AMD), and
with AHEAD = 2 the next tile's tokens are on their way to shared memory meanwhile. x is read once, and the norm's input
``v = up_weight · a + up_bias`` stays in registers until its mean and its variance are known.
"""

import triton
import triton.language as tl

from hyperloader.kernels._adapter_blocks import load_down, load_up
from hyperloader.kernels._math import activate, load_block, load_row, store_block
from hyperloader.kernels._tokens import group_of


@triton.jit(do_not_specialize=["length", "groups", "tiles"])
def walk_kernel(
    x_ptr, down_ptr, down_bias_ptr, up_ptr, up_bias_ptr, outer_ptr, outer_bias_ptr, group_ptr, y_ptr, pre_ptr,
    length, groups, tiles, eps,
    HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """``outer_ptr`` is None without a norm after the up projection. Weights have the dtype of x."""
    units = tl.arange(0, BLOCK_B)
    of_sentence = tl.cdiv(length, BLOCK_T)
    tile = tl.program_id(0).to(tl.int64) * tiles // tl.num_programs(0)
    end = (tl.program_id(0).to(tl.int64) + 1) * tiles // tl.num_programs(0)
    while tile < end:
        sentence = tile // of_sentence
        stop = tl.minimum(end, (sentence + 1) * of_sentence)
        group = tl.zeros((), tl.int64)
        if group_ptr is not None:
            group += group_of(group_ptr, sentence, groups, True)
        downs, ups = (), ()
        for start in tl.static_range(0, HIDDEN, BLOCK_H):
            columns = start + tl.arange(0, BLOCK_H)
            down = load_down(down_ptr + group * (HIDDEN * BOTTLENECK), columns, units, HIDDEN, BOTTLENECK)
            up = load_up(up_ptr + group * (HIDDEN * BOTTLENECK), columns, units, HIDDEN, BOTTLENECK)
            downs += (tl.trans(down),)  # type: ignore[assignment]
            ups += (tl.trans(up),)  # type: ignore[assignment]
        down_bias = load_row(down_bias_ptr + group * BOTTLENECK, units, BOTTLENECK)
        shift_ptr = up_bias_ptr + group * HIDDEN
        if outer_ptr is not None:
            gamma_ptr, beta_ptr = outer_ptr + group * HIDDEN, outer_bias_ptr + group * HIDDEN

        before = sentence * of_sentence
        for own in tl.range((tile - before).to(tl.int32), (stop - before).to(tl.int32), num_stages=AHEAD):
            first = sentence * length + own * BLOCK_T
            rows = tl.arange(0, BLOCK_T)
            in_rows = rows < length - own * BLOCK_T
            xs = ()
            pre = tl.zeros((BLOCK_T, BLOCK_B), tl.float32)
            for start in tl.static_range(0, HIDDEN, BLOCK_H):
                columns = start + tl.arange(0, BLOCK_H)
                x = load_block(x_ptr + first * HIDDEN, rows, in_rows, HIDDEN, columns, columns < HIDDEN)
                xs += (x,)  # type: ignore[assignment]
                pre = tl.dot(x, downs[start // BLOCK_H], pre)
            pre += down_bias[None, :]
            store_block(pre_ptr + first * BOTTLENECK, rows, in_rows, BOTTLENECK, units, units < BOTTLENECK, pre)
            a = activate(pre, ACTIVATION).to(x_ptr.dtype.element_ty)

            vs = ()
            total = tl.zeros((BLOCK_T, BLOCK_H), tl.float32)
            for start in tl.static_range(0, HIDDEN, BLOCK_H):
                columns = start + tl.arange(0, BLOCK_H)
                v = tl.dot(a, ups[start // BLOCK_H]) + load_row(shift_ptr, columns, HIDDEN)[None, :]
                vs += (v,)  # type: ignore[assignment]
                total += v  # zero where there are no columns
            if outer_ptr is not None:
                mean = tl.sum(total, 1) / HIDDEN
                squares = tl.zeros((BLOCK_T, BLOCK_H), tl.float32)
                for start in tl.static_range(0, HIDDEN, BLOCK_H):
                    away = vs[start // BLOCK_H] - mean[:, None]
                    if start + BLOCK_H > HIDDEN:
                        away = tl.where((start + tl.arange(0, BLOCK_H) < HIDDEN)[None, :], away, 0.0)
                    squares += away * away
                rstd = tl.rsqrt(tl.sum(squares, 1) / HIDDEN + eps)
            for start in tl.static_range(0, HIDDEN, BLOCK_H):
                columns = start + tl.arange(0, BLOCK_H)
                v = vs[start // BLOCK_H]
                if outer_ptr is not None:
                    gamma, beta = load_row(gamma_ptr, columns, HIDDEN), load_row(beta_ptr, columns, HIDDEN)
                    v = (v - mean[:, None]) * rstd[:, None] * gamma[None, :] + beta[None, :]
                y = xs[start // BLOCK_H].to(tl.float32) + v
                store_block(y_ptr + first * HIDDEN, rows, in_rows, HIDDEN, columns, columns < HIDDEN, y)
        tile = stop
