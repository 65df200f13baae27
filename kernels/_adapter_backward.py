"""The adapter's backward kernels but for the sums over tokens (``_sums.py``): before them, and after.

With g the gradient of the result, Uc and bc the centred ``up_weight`` and ``up_bias``, v = Uc a + bc, and per token
e = γ g, c = mean of e x̂ (x̂ = rstd · v), s = mean of e and b = rstd · a:

    ∂a = rstd · (Ucᵀ e - c · rstd · Ucᵀ v),   ∂pre = ∂a ∘ act'(pre),   ∂x = g + ∂pre · down_weight
    H = Σ g [b, rstd]ᵀ = [Hb, Hr],   M = Σ c b [b, rstd]ᵀ,   m = Σ s [b, rstd]
    ∂up_weight = γ∘Hb - Uc Mb - bc Mrᵀ - m,   ∂norm_weight = rowsum(Uc ∘ Hb) + bc ∘ Hr,   ∂norm_bias = Σ g

and ∂up_bias likewise with rstd in the place of b. Ucᵀ e is ``up_weightᵀ e`` less Σ e times the columns' means, Σ e v
likewise, and Ucᵀ v is hidden · (G a + h): a tile reads each weight once, and g from memory once; it comes from the
second cache where it is added to the result.
"""

import triton
import triton.language as tl

from hyperloader.kernels._adapter_blocks import load_down, load_up
from hyperloader.kernels._adapter_moments import of_tokens
from hyperloader.kernels._math import activate, join_moments, load_block, load_row, slope, store_block, store_row
from hyperloader.kernels._tokens import place_sentence, tile_of


@triton.jit
def _written_out(
    a, mean, grad_ptr, rows, in_rows, up_ptr, up_bias_ptr, outer_ptr, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Of tokens whose v is small beside its terms: variance, Ucᵀ v / hidden and Σ e v, from v itself."""
    along = tl.zeros((BLOCK_T, BLOCK_B), tl.float32)
    squares = tl.zeros((BLOCK_T,), tl.float32)
    c = tl.zeros((BLOCK_T,), tl.float32)
    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        in_columns = columns < HIDDEN
        up = load_up(up_ptr, columns, tl.arange(0, BLOCK_B), HIDDEN, BOTTLENECK).to(a.dtype)
        v = tl.dot(a, tl.trans(up), input_precision=PRECISION) + load_row(up_bias_ptr, columns, HIDDEN)[None, :]
        v = tl.where(in_columns[None, :], v - mean[:, None], 0.0)
        e = load_block(grad_ptr, rows, in_rows, HIDDEN, columns, in_columns).to(tl.float32)
        e *= load_row(outer_ptr, columns, HIDDEN)[None, :]
        squares += tl.sum(v * v, 1)
        c += tl.sum(e * v, 1)
        along = tl.dot(v.to(a.dtype), up, along, input_precision=PRECISION)
    return squares / HIDDEN, along / HIDDEN, c


@triton.jit(do_not_specialize=["length", "groups", "sentences"])
def tokens_kernel(
    grad_ptr, x_ptr, pre_ptr, down_ptr, up_ptr, up_bias_ptr, outer_ptr, inner_ptr, moments_ptr, group_ptr,
    grad_x_ptr, units_ptr, x_moments_ptr, order_ptr, length, groups, sentences, eps,
    HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, SECTION: tl.constexpr, MOMENTS: tl.constexpr,
    ACTIVATION: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Gradient of ``x``, and per token what the sums need.

    ``units`` has three sections of SECTION numbers a token: c times the third, then s; ∂pre; b and rstd. Without an
    outer norm the third holds a alone and the first nothing. ``x_moments`` (tokens, 2) are those of the inner norm.
    """
    rows, in_rows, group = tile_of(group_ptr, length, groups, BLOCK_T)
    if group_ptr is not None:
        place_sentence(group_ptr, order_ptr, length, groups, sentences, BLOCK_T, BLOCK_S)
    units = tl.arange(0, BLOCK_B)
    in_units = units < BOTTLENECK
    down_ptr += group * (HIDDEN * BOTTLENECK)
    up_ptr += group * (HIDDEN * BOTTLENECK)
    if outer_ptr is not None:
        up_bias_ptr += group * HIDDEN
        outer_ptr += group * HIDDEN
        moments_ptr += group * MOMENTS

    grad_a = tl.zeros((BLOCK_T, BLOCK_B), tl.float32)
    s = tl.zeros((BLOCK_T,), tl.float32)  # Σ e
    c = tl.zeros((BLOCK_T,), tl.float32)  # Σ e up_bias
    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        e = load_block(grad_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN).to(tl.float32)
        if outer_ptr is not None:
            e *= load_row(outer_ptr, columns, HIDDEN)[None, :]
            s += tl.sum(e, 1)
            c += tl.sum(e * load_row(up_bias_ptr, columns, HIDDEN)[None, :], 1)
        up = load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(DOT)
        grad_a = tl.dot(e.to(DOT), up, grad_a, input_precision=PRECISION)

    pre = load_block(pre_ptr, rows, in_rows, BOTTLENECK, units, in_units)
    activated = tl.where(in_units[None, :], activate(pre, ACTIVATION), 0.0)
    basis = activated
    if outer_ptr is not None:
        a = activated.to(DOT)
        mean, variance, along, cancelled = of_tokens(
            a, pre_ptr, rows, in_rows, moments_ptr, BOTTLENECK, ACTIVATION, EXACT, BLOCK_B
        )
        grad_a -= s[:, None] * load_row(moments_ptr, units, BOTTLENECK)[None, :]
        c += tl.sum(a.to(tl.float32) * grad_a, 1) - s * tl.load(moments_ptr + BOTTLENECK)  # Σ e v
        if tl.max((cancelled & in_rows).to(tl.int32), 0) > 0:
            exact, exact_along, exact_c = _written_out(
                a, mean, grad_ptr, rows, in_rows, up_ptr, up_bias_ptr, outer_ptr,
                HIDDEN, BOTTLENECK, PRECISION, BLOCK_T, BLOCK_H, BLOCK_B,
            )  # fmt: skip
            variance = tl.where(cancelled, exact, variance)
            along = tl.where(cancelled[:, None], exact_along, along)
            c = tl.where(cancelled, exact_c, c)
        rstd = tl.rsqrt(variance + eps)
        c *= rstd / HIDDEN
        grad_a = rstd[:, None] * (grad_a - (c * rstd * HIDDEN)[:, None] * along)
        basis = rstd[:, None] * activated
        section = units_ptr + rows * (3 * SECTION)
        number: tl.constexpr = units_ptr.dtype.element_ty
        store_block(units_ptr, rows, in_rows, 3 * SECTION, units, in_units, c[:, None] * basis)
        tl.store(section + BOTTLENECK, (c * rstd).to(number), mask=in_rows)
        tl.store(section + BOTTLENECK + 1, (s / HIDDEN).to(number), mask=in_rows)
        tl.store(section + 2 * SECTION + BOTTLENECK, rstd.to(number), mask=in_rows)
    store_block(units_ptr + 2 * SECTION, rows, in_rows, 3 * SECTION, units, in_units, basis)
    pre = load_block(pre_ptr, rows, in_rows, BOTTLENECK, units, in_units)  # again: registers are scarce until here
    grad_pre = grad_a * slope(pre, ACTIVATION)
    store_block(units_ptr + SECTION, rows, in_rows, 3 * SECTION, units, in_units, grad_pre)
    grad_pre = grad_pre.to(DOT)

    if inner_ptr is not None:
        inner_ptr += group * HIDDEN
        mean = tl.zeros((BLOCK_T,), tl.float32)
        squares = tl.zeros((BLOCK_T,), tl.float32)
        for start in range(0, HIDDEN, BLOCK_H):
            columns = start + tl.arange(0, BLOCK_H)
            x = load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN).to(tl.float32)
            mean, squares = join_moments(mean, squares, x, start, columns, HIDDEN)
        inner_rstd = tl.rsqrt(squares / HIDDEN + eps)
        tl.store(x_moments_ptr + rows * 2, mean, mask=in_rows)
        tl.store(x_moments_ptr + rows * 2 + 1, inner_rstd, mask=in_rows)
        grad_mean = tl.zeros((BLOCK_T,), tl.float32)
        grad_along = tl.zeros((BLOCK_T,), tl.float32)
        for start in range(0, HIDDEN, BLOCK_H):
            columns = start + tl.arange(0, BLOCK_H)
            down = load_down(down_ptr, columns, units, HIDDEN, BOTTLENECK).to(DOT)
            grad_z = tl.dot(grad_pre, down, input_precision=PRECISION) * load_row(inner_ptr, columns, HIDDEN)[None, :]
            x = load_block(x_ptr, rows, in_rows, HIDDEN, columns, columns < HIDDEN).to(tl.float32)
            grad_mean += tl.sum(grad_z, 1)
            grad_along += tl.sum(grad_z * (x - mean[:, None]), 1)
        grad_mean = grad_mean / HIDDEN
        grad_along *= inner_rstd / HIDDEN

    for start in range(0, HIDDEN, BLOCK_H):
        columns = start + tl.arange(0, BLOCK_H)
        in_columns = columns < HIDDEN
        down = load_down(down_ptr, columns, units, HIDDEN, BOTTLENECK).to(DOT)
        grad_z = tl.dot(grad_pre, down, input_precision=PRECISION)
        if inner_ptr is not None:
            x = load_block(x_ptr, rows, in_rows, HIDDEN, columns, in_columns).to(tl.float32)
            standard = (x - mean[:, None]) * inner_rstd[:, None]
            grad_z *= load_row(inner_ptr, columns, HIDDEN)[None, :]
            grad_z = inner_rstd[:, None] * (grad_z - grad_mean[:, None] - standard * grad_along[:, None])
        g = load_block(grad_ptr, rows, in_rows, HIDDEN, columns, in_columns).to(tl.float32)
        store_block(grad_x_ptr, rows, in_rows, HIDDEN, columns, in_columns, g + grad_z)


@triton.jit
def _of_units(
    partial_ptr, group, splits, first, columns, down_ptr, up_ptr, up_bias_ptr, moments_ptr, outer_ptr, inner_ptr,
    inner_bias_ptr, grad_down_ptr, grad_down_bias_ptr, grad_up_ptr,
    HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, WIDTH: tl.constexpr, OF_X: tl.constexpr, OF_UNITS: tl.constexpr,
    UNITS: tl.constexpr, FIRST: tl.constexpr, TOTAL: tl.constexpr, MOMENTS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """Gradients of ``down_weight`` and ``up_weight``, of BLOCK_U bottleneck units from ``first`` on."""
    in_columns = columns < HIDDEN
    units = first + tl.arange(0, BLOCK_U)
    in_units = units < BOTTLENECK
    along = tl.zeros((BLOCK_U, BLOCK_H), tl.float32)  # Hb, or Σ g a
    grad_down = tl.zeros((BLOCK_U, BLOCK_H), tl.float32)
    grad_down_bias = tl.zeros((BLOCK_U,), tl.float32)
    for split in tl.range(splits, loop_unroll_factor=4):
        sums = partial_ptr + split * TOTAL
        along += load_block(sums, units, in_units, HIDDEN, columns, in_columns)
        grad_down += load_block(sums + OF_X, units, in_units, HIDDEN, columns, in_columns)
        grad_down_bias += load_row(sums + OF_UNITS + WIDTH * UNITS + FIRST, units, BOTTLENECK)
    if outer_ptr is not None:
        all_units = tl.arange(0, BLOCK_B)
        moments = tl.zeros((BLOCK_U, BLOCK_B), tl.float32)  # Mb
        of_bias = tl.zeros((BLOCK_U,), tl.float32)
        means = tl.zeros((BLOCK_U,), tl.float32)
        for split in tl.range(splits, loop_unroll_factor=4):
            sums = partial_ptr + split * TOTAL + OF_UNITS
            moments += load_block(sums, units, in_units, UNITS, all_units, all_units < BOTTLENECK)
            of_bias += tl.load(sums + units * UNITS + BOTTLENECK, mask=in_units, other=0.0)
            means += tl.load(sums + units * UNITS + WIDTH, mask=in_units, other=0.0)
        up, bias = _centred(
            up_ptr, up_bias_ptr + group * HIDDEN, moments_ptr + group * MOMENTS, columns, HIDDEN, BOTTLENECK, BLOCK_B
        )
        gamma = load_row(outer_ptr + group * HIDDEN, columns, HIDDEN)
        along = along * gamma[None, :] - means[:, None] - of_bias[:, None] * bias[None, :]
        along -= tl.dot(moments, tl.trans(up), input_precision="ieee")
    store_block(grad_up_ptr, columns, in_columns, BOTTLENECK, units, in_units, tl.trans(along))
    if inner_ptr is not None:
        gamma = load_row(inner_ptr + group * HIDDEN, columns, HIDDEN)
        beta = load_row(inner_bias_ptr + group * HIDDEN, columns, HIDDEN)
        grad_down = grad_down * gamma[None, :] + grad_down_bias[:, None] * beta[None, :]
    store_block(grad_down_ptr, units, in_units, HIDDEN, columns, in_columns, grad_down)
    if tl.program_id(0) == 0:
        store_row(grad_down_bias_ptr + group * BOTTLENECK, units, BOTTLENECK, grad_down_bias)


@triton.jit
def _centred(
    up_ptr, up_bias_ptr, moments_ptr, columns, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, BLOCK_B: tl.constexpr
):
    """Uc [columns, BLOCK_B] and bc [columns]."""
    units = tl.arange(0, BLOCK_B)
    up = load_up(up_ptr, columns, units, HIDDEN, BOTTLENECK).to(tl.float32)
    bias = load_row(up_bias_ptr, columns, HIDDEN)
    return up - load_row(moments_ptr, units, BOTTLENECK)[None, :], bias - tl.load(moments_ptr + BOTTLENECK)


@triton.jit
def _of_columns(
    partial_ptr, group, splits, columns, down_ptr, up_ptr, up_bias_ptr, moments_ptr, outer_ptr, inner_ptr,
    grad_up_bias_ptr, grad_outer_ptr, grad_outer_bias_ptr, grad_inner_ptr, grad_inner_bias_ptr,
    HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, WIDTH: tl.constexpr, OF_X: tl.constexpr, OF_UNITS: tl.constexpr,
    UNITS: tl.constexpr, FIRST: tl.constexpr, TOTAL: tl.constexpr, MOMENTS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Gradients of ``up_bias`` and of the norms: one number a hidden unit."""
    in_columns = columns < HIDDEN
    units = tl.arange(0, BLOCK_B)
    in_units = units < BOTTLENECK
    grad_up_bias = tl.zeros((BLOCK_H,), tl.float32)  # Σ g
    for split in tl.range(splits, loop_unroll_factor=4):
        grad_up_bias += load_row(partial_ptr + split * TOTAL + WIDTH * HIDDEN, columns, HIDDEN)
    if outer_ptr is not None:
        store_row(grad_outer_bias_ptr + group * HIDDEN, columns, HIDDEN, grad_up_bias)
        along = tl.zeros((BLOCK_B, BLOCK_H), tl.float32)  # Hb
        of_rstd = tl.zeros((BLOCK_H,), tl.float32)  # Hr
        moments = tl.zeros((BLOCK_B,), tl.float32)  # of Mr all but its last
        of_bias = tl.zeros((), tl.float32)
        mean = tl.zeros((), tl.float32)
        for split in tl.range(splits, loop_unroll_factor=4):
            sums = partial_ptr + split * TOTAL
            along += load_block(sums, units, in_units, HIDDEN, columns, in_columns)
            of_rstd += load_row(sums + BOTTLENECK * HIDDEN, columns, HIDDEN)
            sums += OF_UNITS + BOTTLENECK * UNITS
            moments += load_row(sums, units, BOTTLENECK)
            of_bias += tl.load(sums + BOTTLENECK)
            mean += tl.load(sums + WIDTH)
        up, bias = _centred(
            up_ptr, up_bias_ptr + group * HIDDEN, moments_ptr + group * MOMENTS, columns, HIDDEN, BOTTLENECK, BLOCK_B
        )
        grad_outer = tl.sum(tl.trans(up) * along, 0) + bias * of_rstd
        store_row(grad_outer_ptr + group * HIDDEN, columns, HIDDEN, grad_outer)
        gamma = load_row(outer_ptr + group * HIDDEN, columns, HIDDEN)
        grad_up_bias = of_rstd * gamma - mean - of_bias * bias - tl.sum(up * moments[None, :], 1)
    store_row(grad_up_bias_ptr + group * HIDDEN, columns, HIDDEN, grad_up_bias)
    if inner_ptr is not None:
        grad_down = tl.zeros((BLOCK_B, BLOCK_H), tl.float32)
        grad_down_bias = tl.zeros((BLOCK_B,), tl.float32)
        for split in tl.range(splits, loop_unroll_factor=4):
            sums = partial_ptr + split * TOTAL
            grad_down += load_block(sums + OF_X, units, in_units, HIDDEN, columns, in_columns)
            grad_down_bias += load_row(sums + OF_UNITS + WIDTH * UNITS + FIRST, units, BOTTLENECK)
        down = load_down(down_ptr, columns, units, HIDDEN, BOTTLENECK).to(tl.float32)
        store_row(grad_inner_ptr + group * HIDDEN, columns, HIDDEN, tl.sum(down * grad_down, 0))
        store_row(grad_inner_bias_ptr + group * HIDDEN, columns, HIDDEN, tl.sum(down * grad_down_bias[:, None], 0))


@triton.jit(do_not_specialize=["splits"])
def weights_kernel(
    partial_ptr, down_ptr, up_ptr, up_bias_ptr, moments_ptr, outer_ptr, inner_ptr, inner_bias_ptr,
    grad_down_ptr, grad_down_bias_ptr, grad_up_ptr, grad_up_bias_ptr, grad_outer_ptr, grad_outer_bias_ptr,
    grad_inner_ptr, grad_inner_bias_ptr, splits,
    HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr, OF_X: tl.constexpr, OF_UNITS: tl.constexpr, UNITS: tl.constexpr,
    FIRST: tl.constexpr, TOTAL: tl.constexpr, MOMENTS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """Gradients of the weights of one group, for a block of hidden columns: the first program those of one number a
    hidden unit, every other those of BLOCK_U bottleneck units.

    ``partial`` (groups, splits, TOTAL) holds the sums over tokens (see ``_sums.py``): of g along the basis, from 0 on;
    of x (or x̂) along ∂pre, from OF_X on; of UNITS numbers along the basis, from OF_UNITS on, of which ∂pre begins at
    FIRST.
    """
    group = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    partial_ptr += group * splits * TOTAL
    down_ptr += group * (HIDDEN * BOTTLENECK)
    up_ptr += group * (HIDDEN * BOTTLENECK)
    width: tl.constexpr = BOTTLENECK + 1 if outer_ptr is not None else BOTTLENECK
    if tl.program_id(1) == 0:
        _of_columns(
            partial_ptr, group, splits, columns, down_ptr, up_ptr, up_bias_ptr, moments_ptr, outer_ptr, inner_ptr,
            grad_up_bias_ptr, grad_outer_ptr, grad_outer_bias_ptr, grad_inner_ptr, grad_inner_bias_ptr,
            HIDDEN, BOTTLENECK, width, OF_X, OF_UNITS, UNITS, FIRST, TOTAL, MOMENTS, BLOCK_H, BLOCK_B,
        )  # fmt: skip
    else:
        _of_units(
            partial_ptr, group, splits, (tl.program_id(1) - 1) * BLOCK_U, columns, down_ptr, up_ptr, up_bias_ptr,
            moments_ptr, outer_ptr, inner_ptr, inner_bias_ptr, grad_down_ptr + group * (HIDDEN * BOTTLENECK),
            grad_down_bias_ptr, grad_up_ptr + group * (HIDDEN * BOTTLENECK),
            HIDDEN, BOTTLENECK, width, OF_X, OF_UNITS, UNITS, FIRST, TOTAL, MOMENTS, BLOCK_H, BLOCK_B, BLOCK_U,
        )  # fmt: skip
