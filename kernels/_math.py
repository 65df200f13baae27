"""Activations, their slopes, blocks of matrices and moments of rows: what the kernels share."""

import triton
import triton.language as tl


@triton.jit
def activate(pre, ACTIVATION: tl.constexpr):
    """``act(pre)``, float32. With tanh(u) = 2σ(2u) - 1 the tanh form of gelu is ``pre · σ(2u)``."""
    if ACTIVATION == "gelu_new":
        return pre * tl.sigmoid(1.5957691216057308 * (pre + 0.044715 * pre * pre * pre))
    if ACTIVATION == "gelu":
        return 0.5 * pre * (1 + tl.erf(0.7071067811865476 * pre))
    if ACTIVATION == "relu":
        return tl.where(pre < 0, 0.0, pre)  # a NaN stays one
    return pre * tl.sigmoid(pre)


@triton.jit
def slope(pre, ACTIVATION: tl.constexpr):
    """``act'(pre)``, float32."""
    if ACTIVATION == "gelu_new":
        near = tl.where(pre > 10, 10.0, tl.where(pre < -10, -10.0, pre))  # beyond, its square may be infinite
        gate = tl.sigmoid(1.5957691216057308 * (near + 0.044715 * near * near * near))
        inner = 1.5957691216057308 * (1 + 0.134145 * near * near)
        return gate + near * gate * (1 - gate) * inner
    if ACTIVATION == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * pre * pre)
        return 0.5 * (1 + tl.erf(0.7071067811865476 * pre)) + pre * density
    if ACTIVATION == "relu":
        return tl.where(pre > 0, 1.0, 0.0)
    gate = tl.sigmoid(pre)
    return gate * (1 + pre * (1 - gate))


@triton.jit
def load_block(ptr, rows, in_rows, stride, columns, in_columns):
    """``ptr[rows, columns]`` of a matrix with ``stride`` numbers a row, zero outside."""
    return tl.load(
        ptr + rows[:, None] * stride + columns[None, :], mask=in_rows[:, None] & in_columns[None, :], other=0.0
    )


@triton.jit
def store_block(ptr, rows, in_rows, stride, columns, in_columns, values):
    """Write ``ptr[rows, columns]``, in the dtype that lies there."""
    tl.store(
        ptr + rows[:, None] * stride + columns[None, :],
        values.to(ptr.dtype.element_ty),
        mask=in_rows[:, None] & in_columns[None, :],
    )


@triton.jit
def load_row(ptr, columns, SIZE: tl.constexpr):
    """Columns of a vector of SIZE numbers, float32, zero outside."""
    return tl.load(ptr + columns, mask=columns < SIZE, other=0.0).to(tl.float32)


@triton.jit
def store_row(ptr, columns, SIZE: tl.constexpr, values):
    """Write columns of a vector of SIZE numbers, in the dtype that lies there."""
    tl.store(ptr + columns, values.to(ptr.dtype.element_ty), mask=columns < SIZE)


@triton.jit
def join_moments(mean, squares, values, start, columns, SIZE: tl.constexpr):
    """Of rows of SIZE numbers, of which the first ``start`` are known: their mean and the sum of their squared
    distances from it, joined with those of the next, ``values`` [rows, columns]: nothing cancels."""
    count = tl.sum((columns < SIZE).to(tl.float32), 0)
    own = tl.sum(tl.where((columns < SIZE)[None, :], values, 0.0), 1) / count
    far = tl.where((columns < SIZE)[None, :], values - own[:, None], 0.0)
    step = own - mean
    share = count / (start + count)
    return mean + step * share, squares + tl.sum(far * far, 1) + step * step * share * start
