"""Kernels of the condition network.

Row n of a condition is of position n // (layers · tasks), layer n // tasks % layers and task n % tasks. The three
embeddings of a row are read where they lie, and meet their thirds of ``first_weight``.
"""

import triton
import triton.language as tl

from hyperloader.kernels._math import load_block, load_row, store_block, store_row


@triton.jit
def _index_of(indices_ptr, places, size, in_rows):
    """Rows of an embedding; an index out of range is clamped: on the device it was not checked."""
    index = tl.load(indices_ptr + places, mask=in_rows, other=0)
    return tl.minimum(tl.maximum(index, 0), size - 1)


@triton.jit
def _indices(rows, in_rows, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions):
    """Task, layer and position of every row, as rows of their embeddings."""
    layer = _index_of(layers_ptr, rows // tasks % layers, num_layers, in_rows)
    position = _index_of(positions_ptr, rows // (tasks * layers), num_positions, in_rows)
    return (rows % tasks).to(tl.int64), layer, position


@triton.jit
def _hidden(
    embeddings, indices, in_rows, weight_ptr, bias_ptr, units, scale,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """``relu(scale · weight · [task ; layer ; position] + bias)`` [BLOCK_T, units]."""
    total = tl.zeros((BLOCK_T, BLOCK_U), tl.float32)
    for i in tl.static_range(3):
        for start in range(0, SIZE, BLOCK_U):
            sizes = start + tl.arange(0, BLOCK_U)
            embedding = load_block(embeddings[i], indices[i], in_rows, SIZE, sizes, sizes < SIZE).to(tl.float32)
            weight = load_block(weight_ptr + i * SIZE, units, units < HIDDEN, 3 * SIZE, sizes, sizes < SIZE)
            total = tl.dot(embedding, tl.trans(weight.to(tl.float32)), total, input_precision="ieee")
    total = total * scale + load_row(bias_ptr, units, HIDDEN)[None, :]
    return tl.where(total < 0, 0.0, total)


@triton.jit
def _standard(rows, eps, DIM: tl.constexpr, BLOCK_C: tl.constexpr):
    """``rows`` standardised, and 1 / their standard deviations."""
    dims = tl.arange(0, BLOCK_C)
    centred = tl.where((dims < DIM)[None, :], rows - (tl.sum(rows, 1) / DIM)[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / DIM + eps)
    return centred * rstd[:, None], rstd


@triton.jit(do_not_specialize=["count", "tasks", "layers", "num_layers", "num_positions"])
def rows_kernel(
    embeddings, layers_ptr, positions_ptr, first_ptr, first_bias_ptr, second_ptr, second_bias_ptr, norm_ptr,
    norm_bias_ptr, out_ptr, grad_ptr, hidden_ptr, grad_rows_ptr, grad_norm_ptr,
    count, tasks, layers, num_layers, num_positions, first_scale, second_scale, scale, eps,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, DIM: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The conditions; or, given their gradient, what the gradients of the parameters need of every row, float32: the
    hidden units, the gradient of what the norm reads, and the row's part of the norm weight's gradient."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    in_rows = rows < count
    indices = _indices(rows, in_rows, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions)
    rows = rows.to(tl.int64)
    dims = tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for first in range(0, HIDDEN, BLOCK_U):
        units = first + tl.arange(0, BLOCK_U)
        hidden = _hidden(
            embeddings, indices, in_rows, first_ptr, first_bias_ptr, units, first_scale, SIZE, HIDDEN, BLOCK_T, BLOCK_U
        )
        if grad_ptr is not None:
            store_block(hidden_ptr, rows, in_rows, HIDDEN, units, units < HIDDEN, hidden)
        second = load_block(second_ptr, dims, dims < DIM, HIDDEN, units, units < HIDDEN).to(tl.float32)
        total = tl.dot(hidden, tl.trans(second), total, input_precision="ieee")
    total = total * second_scale + load_row(second_bias_ptr, dims, DIM)[None, :]
    standard, rstd = _standard(total, eps, DIM, BLOCK_C)
    gamma = load_row(norm_ptr, dims, DIM)[None, :]
    if grad_ptr is None:
        out = (standard * gamma + load_row(norm_bias_ptr, dims, DIM)[None, :]) * scale
        store_block(out_ptr, rows, in_rows, DIM, dims, dims < DIM, out)
    else:
        grad = load_block(grad_ptr, rows, in_rows, DIM, dims, dims < DIM).to(tl.float32) * scale
        store_block(grad_norm_ptr, rows, in_rows, DIM, dims, dims < DIM, grad * standard)
        grad *= gamma
        along = tl.sum(grad * standard, 1) / DIM
        grad = rstd[:, None] * (grad - (tl.sum(grad, 1) / DIM)[:, None] - standard * along[:, None])
        store_block(grad_rows_ptr, rows, in_rows, DIM, dims, dims < DIM, grad)


@triton.jit
def _grad_hidden(
    hidden_ptr, grad_rows_ptr, second_ptr, rows, in_rows, units, scale,
    HIDDEN: tl.constexpr, DIM: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """Hidden units [BLOCK_T, units], and the gradient of what relu reads, before the first layer's scale."""
    grad = tl.zeros((BLOCK_T, BLOCK_U), tl.float32)
    for start in range(0, DIM, BLOCK_U):
        dims = start + tl.arange(0, BLOCK_U)
        grad_rows = load_block(grad_rows_ptr, rows, in_rows, DIM, dims, dims < DIM)
        second = load_block(second_ptr, dims, dims < DIM, HIDDEN, units, units < HIDDEN).to(tl.float32)
        grad = tl.dot(grad_rows, second, grad, input_precision="ieee")
    hidden = load_block(hidden_ptr, rows, in_rows, HIDDEN, units, units < HIDDEN)
    return hidden, tl.where(hidden > 0, grad * scale, 0.0)


@triton.jit
def _of_units(
    embeddings, layers_ptr, positions_ptr, hidden_ptr, grad_rows_ptr, second_ptr, grad_first_ptr, grad_first_bias_ptr,
    grad_second_ptr, units, count, tasks, layers, num_layers, num_positions, first_scale, second_scale,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, DIM: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Rows ``units`` of ``first_weight`` and its bias, columns ``units`` of ``second_weight``."""
    sizes, dims = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_C)
    in_units, in_sizes = units < HIDDEN, sizes < SIZE
    of_task = tl.zeros((BLOCK_U, BLOCK_E), tl.float32)
    of_layer = tl.zeros((BLOCK_U, BLOCK_E), tl.float32)
    of_position = tl.zeros((BLOCK_U, BLOCK_E), tl.float32)
    of_second = tl.zeros((BLOCK_C, BLOCK_U), tl.float32)
    bias = tl.zeros((BLOCK_U,), tl.float32)
    for start in range(0, count, BLOCK_T):
        rows = start + tl.arange(0, BLOCK_T)
        in_rows = rows < count
        task, layer, position = _indices(
            rows, in_rows, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions
        )
        rows = rows.to(tl.int64)
        hidden, grad = _grad_hidden(
            hidden_ptr, grad_rows_ptr, second_ptr, rows, in_rows, units, second_scale, HIDDEN, DIM, BLOCK_T, BLOCK_U
        )
        grad_rows = load_block(grad_rows_ptr, rows, in_rows, DIM, dims, dims < DIM)
        bias += tl.sum(grad, 0)
        of_second = tl.dot(tl.trans(grad_rows), hidden, of_second, input_precision="ieee")
        grad = tl.trans(grad)
        embedding = load_block(embeddings[0], task, in_rows, SIZE, sizes, in_sizes).to(tl.float32)
        of_task = tl.dot(grad, embedding, of_task, input_precision="ieee")
        embedding = load_block(embeddings[1], layer, in_rows, SIZE, sizes, in_sizes).to(tl.float32)
        of_layer = tl.dot(grad, embedding, of_layer, input_precision="ieee")
        embedding = load_block(embeddings[2], position, in_rows, SIZE, sizes, in_sizes).to(tl.float32)
        of_position = tl.dot(grad, embedding, of_position, input_precision="ieee")
    store_block(grad_first_ptr, units, in_units, 3 * SIZE, sizes, in_sizes, of_task * first_scale)
    store_block(grad_first_ptr + SIZE, units, in_units, 3 * SIZE, sizes, in_sizes, of_layer * first_scale)
    store_block(grad_first_ptr + 2 * SIZE, units, in_units, 3 * SIZE, sizes, in_sizes, of_position * first_scale)
    store_block(grad_second_ptr, dims, dims < DIM, HIDDEN, units, in_units, of_second * second_scale)
    store_row(grad_first_bias_ptr, units, HIDDEN, bias)


@triton.jit
def _of_embedding(
    WHICH: tl.constexpr, own, layers_ptr, positions_ptr, first_ptr, hidden_ptr, grad_rows_ptr, second_ptr,
    count, tasks, layers, num_layers, num_positions, second_scale,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, DIM: tl.constexpr,
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
            in_rows = rows < count
            indices = _indices(rows, in_rows, layers_ptr, positions_ptr, tasks, layers, num_layers, num_positions)
            used = (own[:, None] == indices[WHICH][None, :]).to(tl.float32)
            _, grad_hidden = _grad_hidden(
                hidden_ptr, grad_rows_ptr, second_ptr, rows.to(tl.int64), in_rows, units, second_scale, HIDDEN, DIM,
                BLOCK_T, BLOCK_U,
            )  # fmt: skip
            total = tl.dot(used, grad_hidden, total, input_precision="ieee")
        weight = load_block(first_ptr + WHICH * SIZE, units, units < HIDDEN, 3 * SIZE, sizes, sizes < SIZE)
        grad = tl.dot(total, weight.to(tl.float32), grad, input_precision="ieee")
    return grad


@triton.jit(do_not_specialize=["count", "tasks", "layers", "num_layers", "num_positions"])
def parameters_kernel(
    grad_ptr, embeddings, layers_ptr, positions_ptr, first_ptr, second_ptr, hidden_ptr, grad_rows_ptr, grad_norm_ptr,
    grad_embeddings, grad_first_ptr, grad_first_bias_ptr, grad_second_ptr, grad_second_bias_ptr, grad_norm_weight_ptr,
    grad_norm_bias_ptr, count, tasks, layers, num_layers, num_positions, first_scale, second_scale, scale,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, DIM: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the parameters. The first programs take BLOCK_U hidden units each, one takes the vectors of the
    norm, the others BLOCK_T rows each of one embedding after the other. All go over all rows, in order."""
    program = tl.program_id(0)
    of_units: tl.constexpr = (HIDDEN + BLOCK_U - 1) // BLOCK_U
    if program < of_units:
        _of_units(
            embeddings, layers_ptr, positions_ptr, hidden_ptr, grad_rows_ptr, second_ptr, grad_first_ptr,
            grad_first_bias_ptr, grad_second_ptr, program * BLOCK_U + tl.arange(0, BLOCK_U), count, tasks, layers,
            num_layers, num_positions, first_scale, second_scale, SIZE, HIDDEN, DIM, BLOCK_T, BLOCK_E, BLOCK_U, BLOCK_C,
        )  # fmt: skip
    elif program == of_units:
        dims = tl.arange(0, BLOCK_C)
        bias = tl.zeros((BLOCK_C,), tl.float32)
        norm_weight = tl.zeros((BLOCK_C,), tl.float32)
        norm_bias = tl.zeros((BLOCK_C,), tl.float32)
        for start in range(0, count, BLOCK_T):
            rows = (start + tl.arange(0, BLOCK_T)).to(tl.int64)
            bias += tl.sum(load_block(grad_rows_ptr, rows, rows < count, DIM, dims, dims < DIM), 0)
            norm_weight += tl.sum(load_block(grad_norm_ptr, rows, rows < count, DIM, dims, dims < DIM), 0)
            norm_bias += tl.sum(load_block(grad_ptr, rows, rows < count, DIM, dims, dims < DIM).to(tl.float32), 0)
        store_row(grad_second_bias_ptr, dims, DIM, bias)
        store_row(grad_norm_weight_ptr, dims, DIM, norm_weight)
        store_row(grad_norm_bias_ptr, dims, DIM, norm_bias * scale)
    else:
        tile = program - of_units - 1
        sizes = tl.arange(0, BLOCK_E)
        numbers = (tasks, num_layers, num_positions)
        for i in tl.static_range(3):
            tiles = tl.cdiv(numbers[i], BLOCK_T)
            if tile >= 0 and tile < tiles:
                own = tile * BLOCK_T + tl.arange(0, BLOCK_T)
                grad = _of_embedding(
                    i, own, layers_ptr, positions_ptr, first_ptr, hidden_ptr, grad_rows_ptr, second_ptr, count, tasks,
                    layers, num_layers, num_positions, second_scale, SIZE, HIDDEN, DIM, BLOCK_T, BLOCK_E, BLOCK_U,
                )  # fmt: skip
                store_block(grad_embeddings[i], own, own < numbers[i], SIZE, sizes, sizes < SIZE, grad * first_scale)
            tile -= tiles
