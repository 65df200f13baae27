"""Kernels of the condition network. Row n of a condition is of position n // (layers · tasks), layer n // tasks % layers
and task n % tasks. The three embeddings of a row are read where they lie, and meet their thirds of ``first_weight``.
"""

import triton
import triton.language as tl

from hyperloader.kernels._math import load_block, store_block


@triton.jit
def _index_of(indices_ptr, which, size, in_rows):
    """Rows of an embedding; an index out of range is clamped, for it was not looked at on the device."""
    index = tl.load(indices_ptr + which, mask=in_rows, other=0)
    return tl.minimum(tl.maximum(index, 0), size - 1)


@triton.jit
def _indices(rows, in_rows, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions):
    """Task, layer and position of every row, as rows of their embeddings."""
    layer = _index_of(layers_ptr, rows // tasks % layers, num_layers, in_rows)
    position = _index_of(positions_ptr, rows // (tasks * layers), num_positions, in_rows)
    return (rows % tasks).to(tl.int64), layer, position


@triton.jit
def _hidden(
    embeddings, indices, in_rows, weight_ptr, bias_ptr, scale, SIZE: tl.constexpr, HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """``scale · weight · [task ; layer ; position] + bias`` [BLOCK_T, BLOCK_H], before relu."""
    sizes, units = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_H)
    total = tl.zeros((BLOCK_T, BLOCK_H), tl.float32)
    for i in tl.static_range(3):
        embedding = load_block(embeddings[i], indices[i], in_rows, SIZE, sizes, sizes < SIZE).to(tl.float32)
        weight = load_block(weight_ptr + i * SIZE, units, units < HIDDEN, 3 * SIZE, sizes, sizes < SIZE)
        total = tl.dot(embedding, tl.trans(weight.to(tl.float32)), total, input_precision=PRECISION)
    bias = tl.load(bias_ptr + units, mask=units < HIDDEN, other=0.0).to(tl.float32)
    return total * scale + bias[None, :]


@triton.jit
def _standard(
    hidden, weight_ptr, bias_ptr, scale, eps, HIDDEN: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The second linear layer's result, standardised, and 1 / its standard deviation."""
    units, dims = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_C)
    weight = load_block(weight_ptr, dims, dims < DIM, HIDDEN, units, units < HIDDEN).to(tl.float32)
    bias = tl.load(bias_ptr + dims, mask=dims < DIM, other=0.0).to(tl.float32)
    rows = tl.dot(hidden, tl.trans(weight), input_precision=PRECISION) * scale + bias[None, :]
    centred = tl.where((dims < DIM)[None, :], rows - (tl.sum(rows, 1) / DIM)[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / DIM + eps)
    return centred * rstd[:, None], rstd


@triton.jit(do_not_specialize=["count", "tasks", "layers", "num_layers", "num_positions"])
def forward_kernel(
    embeddings, layers_ptr, positions_ptr, first_ptr, first_bias_ptr, second_ptr, second_bias_ptr, norm_ptr,
    norm_bias_ptr, out_ptr, count, tasks, layers, num_layers, num_positions, first_scale, second_scale, scale, eps,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    in_rows = rows < count
    indices = _indices(rows, in_rows, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions)
    hidden = _hidden(
        embeddings, indices, in_rows, first_ptr, first_bias_ptr, first_scale, SIZE, HIDDEN, PRECISION, BLOCK_T,
        BLOCK_E, BLOCK_H,
    )  # fmt: skip
    hidden = tl.where(hidden < 0, 0.0, hidden)
    standard, _ = _standard(
        hidden, second_ptr, second_bias_ptr, second_scale, eps, HIDDEN, DIM, PRECISION, BLOCK_H, BLOCK_C
    )
    dims = tl.arange(0, BLOCK_C)
    gamma = tl.load(norm_ptr + dims, mask=dims < DIM, other=0.0).to(tl.float32)
    beta = tl.load(norm_bias_ptr + dims, mask=dims < DIM, other=0.0).to(tl.float32)
    out = (standard * gamma[None, :] + beta[None, :]) * scale
    store_block(out_ptr, rows.to(tl.int64), in_rows, DIM, dims, dims < DIM, out)


@triton.jit(do_not_specialize=["count", "tasks", "layers", "num_layers", "num_positions"])
def rows_kernel(
    grad_ptr, embeddings, layers_ptr, positions_ptr, first_ptr, first_bias_ptr, second_ptr, second_bias_ptr, norm_ptr,
    hidden_ptr, grad_hidden_ptr, grad_rows_ptr, grad_norm_ptr, count, tasks, layers, num_layers, num_positions,
    first_scale, second_scale, scale, eps,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What the gradients of the weights need of every row, float32: the hidden units and their gradient before relu and
    ``first_scale``, the gradient before the norm, and its part of the norm weight's."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    in_rows = rows < count
    indices = _indices(rows, in_rows, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions)
    before = _hidden(
        embeddings, indices, in_rows, first_ptr, first_bias_ptr, first_scale, SIZE, HIDDEN, PRECISION, BLOCK_T,
        BLOCK_E, BLOCK_H,
    )  # fmt: skip
    hidden = tl.where(before < 0, 0.0, before)
    standard, rstd = _standard(
        hidden, second_ptr, second_bias_ptr, second_scale, eps, HIDDEN, DIM, PRECISION, BLOCK_H, BLOCK_C
    )
    units, dims = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_C)
    rows = rows.to(tl.int64)
    grad = load_block(grad_ptr, rows, in_rows, DIM, dims, dims < DIM).to(tl.float32) * scale
    store_block(grad_norm_ptr, rows, in_rows, DIM, dims, dims < DIM, grad * standard)
    grad *= tl.load(norm_ptr + dims, mask=dims < DIM, other=0.0).to(tl.float32)[None, :]
    along = tl.sum(grad * standard, 1) / DIM
    grad = rstd[:, None] * (grad - (tl.sum(grad, 1) / DIM)[:, None] - standard * along[:, None])
    grad = tl.where((dims < DIM)[None, :], grad, 0.0)
    second = load_block(second_ptr, dims, dims < DIM, HIDDEN, units, units < HIDDEN).to(tl.float32)
    grad_hidden = tl.dot(grad, second, input_precision=PRECISION) * second_scale
    grad_hidden = tl.where(before > 0, grad_hidden, 0.0)
    store_block(grad_rows_ptr, rows, in_rows, DIM, dims, dims < DIM, grad)
    store_block(hidden_ptr, rows, in_rows, HIDDEN, units, units < HIDDEN, hidden)
    store_block(grad_hidden_ptr, rows, in_rows, HIDDEN, units, units < HIDDEN, grad_hidden)


@triton.jit(do_not_specialize=["count", "tasks", "layers", "num_layers", "num_positions"])
def parameters_kernel(
    grad_ptr, embeddings, layers_ptr, positions_ptr, first_ptr, hidden_ptr, grad_hidden_ptr, grad_rows_ptr,
    grad_norm_ptr, grad_embeddings, grad_first_ptr, grad_first_bias_ptr, grad_second_ptr, grad_second_bias_ptr,
    grad_norm_weight_ptr, grad_norm_bias_ptr, count, tasks, layers, num_layers, num_positions,
    first_scale, second_scale, scale,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the parameters. The first programs take BLOCK_U hidden units each, one takes the vectors of the norm,
    the others BLOCK_T rows each of one embedding after the other. All go over all rows in order."""
    program = tl.program_id(0)
    of_units: tl.constexpr = (HIDDEN + BLOCK_U - 1) // BLOCK_U
    sizes, dims = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_C)
    if program < of_units:
        units = program * BLOCK_U + tl.arange(0, BLOCK_U)
        _of_units(
            embeddings, layers_ptr, positions_ptr, hidden_ptr, grad_hidden_ptr, grad_rows_ptr, grad_first_ptr,
            grad_first_bias_ptr, grad_second_ptr, units, count, tasks, layers, num_layers, num_positions, first_scale,
            second_scale, SIZE, HIDDEN, DIM, PRECISION, BLOCK_T, BLOCK_E, BLOCK_U, BLOCK_C,
        )  # fmt: skip
    elif program == of_units:
        bias = tl.zeros((BLOCK_C,), tl.float32)
        norm_weight = tl.zeros((BLOCK_C,), tl.float32)
        norm_bias = tl.zeros((BLOCK_C,), tl.float32)
        for start in range(0, count, BLOCK_T):
            rows = (start + tl.arange(0, BLOCK_T)).to(tl.int64)
            bias += tl.sum(load_block(grad_rows_ptr, rows, rows < count, DIM, dims, dims < DIM), 0)
            norm_weight += tl.sum(load_block(grad_norm_ptr, rows, rows < count, DIM, dims, dims < DIM), 0)
            norm_bias += tl.sum(load_block(grad_ptr, rows, rows < count, DIM, dims, dims < DIM).to(tl.float32), 0)
        tl.store(grad_second_bias_ptr + dims, bias.to(grad_second_bias_ptr.dtype.element_ty), mask=dims < DIM)
        tl.store(grad_norm_weight_ptr + dims, norm_weight.to(grad_norm_weight_ptr.dtype.element_ty), mask=dims < DIM)
        norm_bias *= scale
        tl.store(grad_norm_bias_ptr + dims, norm_bias.to(grad_norm_bias_ptr.dtype.element_ty), mask=dims < DIM)
    else:
        tile = program - of_units - 1
        numbers = (tasks, num_layers, num_positions)
        for i in tl.static_range(3):
            tiles = tl.cdiv(numbers[i], BLOCK_T)
            if tile >= 0 and tile < tiles:
                own = tile * BLOCK_T + tl.arange(0, BLOCK_T)
                grad = _of_embedding(
                    i, own, layers_ptr, positions_ptr, first_ptr, grad_hidden_ptr, count, tasks, layers, num_layers,
                    num_positions, SIZE, HIDDEN, PRECISION, BLOCK_T, BLOCK_E, BLOCK_U,
                )  # fmt: skip
                store_block(grad_embeddings[i], own, own < numbers[i], SIZE, sizes, sizes < SIZE, grad * first_scale)
            tile -= tiles


@triton.jit
def _of_units(
    embeddings, layers_ptr, positions_ptr, hidden_ptr, grad_hidden_ptr, grad_rows_ptr, grad_first_ptr,
    grad_first_bias_ptr, grad_second_ptr, units, count, tasks, layers, num_layers, num_positions, first_scale,
    second_scale, SIZE: tl.constexpr, HIDDEN: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Rows ``units`` of ``first_weight`` and its bias, columns ``units`` of ``second_weight``."""
    sizes, dims = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_C)
    in_units = units < HIDDEN
    of_task = tl.zeros((BLOCK_U, BLOCK_E), tl.float32)
    of_layer = tl.zeros((BLOCK_U, BLOCK_E), tl.float32)
    of_position = tl.zeros((BLOCK_U, BLOCK_E), tl.float32)
    second = tl.zeros((BLOCK_C, BLOCK_U), tl.float32)
    bias = tl.zeros((BLOCK_U,), tl.float32)
    for start in range(0, count, BLOCK_T):
        rows = start + tl.arange(0, BLOCK_T)
        in_rows = rows < count
        task, layer, position = _indices(
            rows, in_rows, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions
        )
        rows = rows.to(tl.int64)
        grad = load_block(grad_hidden_ptr, rows, in_rows, HIDDEN, units, in_units)
        hidden = load_block(hidden_ptr, rows, in_rows, HIDDEN, units, in_units)
        grad_rows = load_block(grad_rows_ptr, rows, in_rows, DIM, dims, dims < DIM)
        bias += tl.sum(grad, 0)
        second = tl.dot(tl.trans(grad_rows), hidden, second, input_precision=PRECISION)
        grad = tl.trans(grad)
        embedding = load_block(embeddings[0], task, in_rows, SIZE, sizes, sizes < SIZE).to(tl.float32)
        of_task = tl.dot(grad, embedding, of_task, input_precision=PRECISION)
        embedding = load_block(embeddings[1], layer, in_rows, SIZE, sizes, sizes < SIZE).to(tl.float32)
        of_layer = tl.dot(grad, embedding, of_layer, input_precision=PRECISION)
        embedding = load_block(embeddings[2], position, in_rows, SIZE, sizes, sizes < SIZE).to(tl.float32)
        of_position = tl.dot(grad, embedding, of_position, input_precision=PRECISION)
    in_sizes = sizes < SIZE
    store_block(grad_first_ptr, units, in_units, 3 * SIZE, sizes, in_sizes, of_task * first_scale)
    store_block(grad_first_ptr + SIZE, units, in_units, 3 * SIZE, sizes, in_sizes, of_layer * first_scale)
    store_block(grad_first_ptr + 2 * SIZE, units, in_units, 3 * SIZE, sizes, in_sizes, of_position * first_scale)
    store_block(grad_second_ptr, dims, dims < DIM, HIDDEN, units, in_units, second * second_scale)
    tl.store(grad_first_bias_ptr + units, bias.to(grad_first_bias_ptr.dtype.element_ty), mask=in_units)


@triton.jit
def _of_embedding(
    WHICH: tl.constexpr, own, layers_ptr, positions_ptr, first_ptr, grad_hidden_ptr, count, tasks, layers, num_layers,
    num_positions, SIZE: tl.constexpr, HIDDEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """Rows ``own`` of an embedding's gradient: each the sum over the condition's rows that used it."""
    sizes = tl.arange(0, BLOCK_E)
    grad = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for first in range(0, HIDDEN, BLOCK_U):
        units = first + tl.arange(0, BLOCK_U)
        total = tl.zeros((BLOCK_T, BLOCK_U), tl.float32)
        for start in range(0, count, BLOCK_T):
            rows = start + tl.arange(0, BLOCK_T)
            indices = _indices(rows, rows < count, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions)
            used = (own[:, None] == indices[WHICH][None, :]).to(tl.float32)
            rows = rows.to(tl.int64)
            grad_hidden = load_block(grad_hidden_ptr, rows, rows < count, HIDDEN, units, units < HIDDEN)
            total = tl.dot(used, grad_hidden, total, input_precision=PRECISION)
        weight = load_block(first_ptr + WHICH * SIZE, units, units < HIDDEN, 3 * SIZE, sizes, sizes < SIZE)
        grad = tl.dot(total, weight.to(tl.float32), grad, input_precision=PRECISION)
    return grad
