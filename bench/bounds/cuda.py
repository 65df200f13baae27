"""Every launch of the CUDA kernels in bfloat16, with one set of weights and the norm behind the adapter.

Counted from ``csrc/cuda``; the grids and block sizes are those of its host code.
"""

import math

from bench.bounds.launches import (
    CONDITION,
    EMBEDDING,
    HALF,
    NETWORK,
    SINGLE,
    Call,
    Launch,
    Model,
    copy,
    frozen,
    frozen_backward,
    up,
)

STEP, TILE, THREADS = 32, 16, 256  # tiles.cuh: widths are padded to it; tokens of a block; threads of a block
IN_FLIGHT = 512  # blocks that sums over tokens are cut into at most


def calls(model: Model, tokens: int) -> list[Call]:
    """Every operator that reads tokens, at ``tokens``."""
    row = HALF * tokens * model.hidden
    products, gradients = frozen(model, tokens), frozen_backward(model, tokens)
    made = [
        ("adapter forward", _adapter(model, tokens), copy(2 * row)),
        ("adapter backward", _adapter_backward(model, tokens), copy(3 * row)),
        ("lora_linears forward", (*products, *_lora(model, tokens)), products),
        ("lora_linears backward", (*gradients, *_lora_backward(model, tokens)), gradients),
    ]
    return [Call("cuda", name, model.name, tokens, launches, floor) for name, launches, floor in made]


def calls_without_tokens(model: Model) -> list[Call]:
    """Generation of the adapters of a stack from float32 parameters, and its conditions."""
    outputs = sum(model.heads)
    parameters, results = SINGLE * outputs * (CONDITION + 1), HALF * outputs * model.rows
    made = [
        ("generate forward", _generate(model), copy(parameters + results)),
        ("generate backward", _generate_backward(model), copy(2 * parameters + results)),
        ("condition forward", _condition(model), copy(_network(model))),
        ("condition backward", _condition_backward(model), copy(2 * _network(model))),
    ]
    return [Call("cuda", name, model.name, 0, launches, floor) for name, launches, floor in made]


def _lay_out(numbers: list[int], laid_out: list[int], vectors: int = 0) -> Launch:
    """Matrices of ``numbers`` each become ``laid_out`` numbers each: read once, written once.

    Two divisions of 64 bits find row and column of a number: 80 instructions.
    """
    most = max(laid_out)
    blocks = min(math.ceil(most / 1024), 1024) * (len(laid_out) + vectors)
    read, written = HALF * sum(numbers), HALF * sum(laid_out)
    return Launch("lay_out_kernel<BFloat16>", blocks, THREADS, read + written, cache=read + written,
                  lanes=80.0 * sum(laid_out))  # fmt: skip


def _adapter(model: Model, tokens: int) -> tuple[Launch, ...]:
    hidden, thin, tiles = up(model.hidden, STEP), up(model.bottleneck, STEP), math.ceil(tokens / TILE)
    weight, row = HALF * hidden * thin, HALF * tokens * model.hidden
    vectors = 4 * SINGLE * hidden  # up_bias for the statistics and for the result, the norm's weight and bias
    pre = SINGLE * tokens * model.bottleneck
    return (
        _lay_out([model.hidden * model.bottleneck] * 2, [hidden * thin] * 2, 4),
        Launch(
            "adapter_kernel<BFloat16, BFloat16, true>", tiles, THREADS,
            memory=2 * row + pre,  # x, y
            again=2 * weight,
            # x for the product and for the residual, y; `down` once, `up` for the statistics and for the result
            cache=3 * row + pre + tiles * (3 * weight + vectors),
            tensor=3 * 2.0 * tiles * TILE * hidden * thin,
            lanes=16.0 * tokens * hidden,  # of a number: 8 in its moments, 8 in its norm and residual
            dynamic_shared=HALF * TILE * (thin + 8),
        ),
    )  # fmt: skip


def _adapter_backward(model: Model, tokens: int) -> tuple[Launch, ...]:
    hidden, thin, tiles = up(model.hidden, STEP), up(model.bottleneck, STEP), math.ceil(tokens / TILE)
    weight, row = HALF * hidden * thin, HALF * tokens * model.hidden
    units = 2 * SINGLE * tokens * model.bottleneck
    sums = SINGLE * tiles * (3 * hidden + thin)  # of each tile, for the norm and the biases
    vectors = 5 * SINGLE * hidden  # up_bias in each of three products, the norm's weight in two
    pre = SINGLE * tokens * model.bottleneck
    splits = _splits(tokens, 2 * hidden * thin)
    parts = 2 * SINGLE * splits * model.hidden * model.bottleneck
    return (
        _lay_out([model.hidden * model.bottleneck] * 3, [hidden * thin] * 3, 4),
        Launch(
            "adapter_backward_kernel<BFloat16, BFloat16, true>", tiles, THREADS,
            memory=2 * row + row + pre + units + sums,  # g, ∂x; and the gradient of v, kept for the sums
            again=3 * weight,
            # g in both passes through the norm and for the residual, ∂v written and read, ∂x; `up` three times as it
            # is and once transposed, `down` once; pre for the activation and for its slope
            cache=6 * row + 2 * pre + units + sums + tiles * (5 * weight + vectors),
            tensor=5 * 2.0 * tiles * TILE * hidden * thin,
            lanes=(8 + 14 + 22 + 4) * 1.0 * tokens * hidden,  # moments, Σ γ g x̂, ∂v and its sums, the residual
            dynamic_shared=HALF * TILE * (thin + 8),
        ),
        Launch(
            "sum_products_kernel<BFloat16, BFloat16>", 2 * hidden // STEP * (thin // STEP) * splits, THREADS,
            memory=row + parts,  # x
            again=row + units,  # ∂v
            cache=_summed(tokens, model.hidden, model.bottleneck) * 2 + parts,
            tensor=2 * 2.0 * up(tokens, TILE) * hidden * thin,
            lanes=2 * 3.0 * tokens * thin * hidden / STEP,  # a unit is rounded again for every 32 columns
        ),
        _reduce(2 * model.hidden * model.bottleneck, parts + sums, HALF, 6, model.hidden * model.bottleneck),
    )  # fmt: skip


def _summed(tokens: int, columns: int, units: int) -> float:
    """Bytes that a sum over tokens reads: columns once for every 32 units, float32 units once for every 32 columns."""
    return tokens * (HALF * columns * math.ceil(units / STEP) + SINGLE * units * math.ceil(columns / STEP))


def _splits(tokens: int, results: int) -> int:
    tiles = math.ceil(tokens / TILE)
    return max(min(IN_FLIGHT // max(results // (STEP * STEP), 1), tiles // 16), 1)


def _reduce(results: int, parts: float, size: int, count: int, most: int) -> Launch:
    """``count`` reductions of parts that an earlier launch wrote, together to ``results`` numbers."""
    return Launch("reduce_kernel<float>", math.ceil(most / 32) * count, THREADS, memory=size * results, again=parts,
                  cache=size * results + parts, lanes=4 * parts / SINGLE)  # fmt: skip


def _lora(model: Model, tokens: int) -> tuple[Launch, ...]:
    hidden, rank = up(model.hidden, STEP), model.rank * len(model.outs)
    outs = sum(up(out, STEP) for out in model.outs)
    thin, tiles = up(rank, STEP), math.ceil(tokens / TILE)
    row, results = HALF * tokens * model.hidden, HALF * tokens * sum(model.outs)
    weights = HALF * thin * (hidden + outs)  # all A together, and each B, which is padded to all units
    return (
        _lay_out(
            [model.hidden * rank, *(out * model.rank for out in model.outs)],
            [hidden * thin, *(up(out, STEP) * thin for out in model.outs)],
            len(model.outs) - 1,
        ),
        Launch(
            "low_rank_kernel<BFloat16, BFloat16>", tiles, THREADS,
            again=row + 2 * results + weights,  # x, and the frozen products read and written
            cache=row + 2 * results + tiles * weights,
            tensor=2.0 * tiles * TILE * thin * (hidden + outs),
            lanes=3.0 * tokens * outs,
            dynamic_shared=HALF * TILE * (thin + 8),
        ),
    )  # fmt: skip


def _lora_backward(model: Model, tokens: int) -> tuple[Launch, ...]:
    hidden, rank = up(model.hidden, STEP), model.rank * len(model.outs)
    outs = sum(up(out, STEP) for out in model.outs)
    thin, own, tiles = up(rank, STEP), up(model.rank, STEP), math.ceil(tokens / TILE)
    row, grads, units = HALF * tokens * model.hidden, HALF * tokens * sum(model.outs), SINGLE * tokens * rank
    A, B = HALF * thin * hidden, HALF * thin * outs
    splits = _splits(tokens, thin * hidden + own * outs)
    parts = SINGLE * splits * (rank * model.hidden + model.rank * sum(model.outs))
    shared = HALF * TILE * (thin + 8)
    return (
        _lay_out(
            [model.hidden * rank] * 2 + [out * model.rank for out in model.outs],
            [hidden * thin] * 2 + [up(out, STEP) * thin for out in model.outs],
            2 * (len(model.outs) - 1),
        ),
        Launch(
            "low_rank_kernel<BFloat16, BFloat16>", tiles, THREADS,
            memory=units, again=grads + 2 * row + A + B,  # ∂x is read and written
            cache=grads + 2 * row + units + tiles * (A + B),
            tensor=2.0 * tiles * TILE * thin * (hidden + outs), lanes=3.0 * tokens * hidden, dynamic_shared=shared,
        ),
        Launch(
            "low_rank_kernel<BFloat16, BFloat16>", tiles, THREADS,
            memory=row + units, again=A,  # x shrunk once more
            cache=row + units + tiles * A, tensor=2.0 * tiles * TILE * hidden * thin, dynamic_shared=shared,
        ),
        Launch(
            "sum_products_kernel<BFloat16, BFloat16>", (hidden * thin + outs * own) // STEP**2 * splits, THREADS,
            memory=parts, again=row + grads + 2 * units,
            cache=_summed(tokens, model.hidden, rank) + sum(_summed(tokens, o, model.rank) for o in model.outs) + parts,
            tensor=2.0 * up(tokens, TILE) * (hidden * thin + outs * own),
            lanes=3.0 * tokens * (thin * hidden + own * outs) / STEP,
        ),
        _reduce(rank * model.hidden + model.rank * sum(model.outs), parts, HALF, 2 * len(model.outs),
                model.rank * model.hidden),
    )  # fmt: skip


# Small products through shared memory (products.cuh): 64 columns a block, all numbers through a switch over dtypes.
_FETCH = 12.0  # instructions to read one number: its place, whether it exists, its dtype


def _height(rows: int) -> int:
    return 32 if rows <= 32 else 64


def _product_lanes(results: float, terms: int, fetched: float) -> float:
    return results * terms + _FETCH * fetched


def _product_shared(results: float, terms: int, height: int) -> float:
    """A warp reads height / 16 + 8 times 128 bytes for the 4 terms of its height × 2 × 4 results."""
    return results * terms * 128 * (height / 16 + 8) / (4 * 8 * height)


def _generate(model: Model) -> tuple[Launch, ...]:
    outputs, height = sum(model.heads), _height(model.rows)
    blocks, tall = sum(math.ceil(head / 64) for head in model.heads), math.ceil(model.rows / height)
    weights, results = SINGLE * outputs * (CONDITION + 1), HALF * outputs * model.rows
    fetched = blocks * tall * (64 + height) * CONDITION
    multiplied = blocks * 64 * tall * height
    return (
        Launch(
            f"generate_kernel<float, {height // 16}>", blocks * tall, THREADS,
            memory=weights + results,
            cache=tall * weights + results + blocks * tall * SINGLE * height * CONDITION,  # conditions in each
            lanes=_product_lanes(multiplied, CONDITION, fetched) + 8.0 * outputs * model.rows,
            shared=_product_shared(multiplied, CONDITION, height) + SINGLE * fetched,
        ),
    )  # fmt: skip


def _generate_backward(model: Model) -> tuple[Launch, ...]:
    outputs, rows, height = sum(model.heads), model.rows, _height(model.rows)
    blocks, tall, deep = sum(math.ceil(head / 64) for head in model.heads), math.ceil(rows / height), up(rows, STEP)
    weights, grads = SINGLE * outputs * CONDITION, HALF * outputs * rows
    biases = SINGLE * outputs
    splits = min(blocks, max(IN_FLIGHT // tall, 1))
    parts = SINGLE * splits * rows * CONDITION
    of_weights, of_rows = blocks * 2 * 64 * deep, blocks * tall * (height + CONDITION) * 64
    return (
        Launch(
            "generate_weights_kernel<float>", blocks, THREADS,
            memory=grads + weights + biases,
            cache=2 * grads + weights + biases + blocks * SINGLE * rows * CONDITION,  # gradients again for the bias
            lanes=_product_lanes(blocks * 64 * CONDITION, deep, of_weights + blocks * 64 * rows),
            shared=_product_shared(blocks * 64 * CONDITION, deep, 64) + SINGLE * of_weights,
        ),
        Launch(
            f"generate_condition_kernel<float, {height // 16}>", splits * tall, THREADS,
            memory=weights + parts, again=grads,
            cache=grads + tall * weights + parts,
            lanes=_product_lanes(blocks * tall * height * CONDITION, 64, of_rows),
            shared=_product_shared(blocks * tall * height * CONDITION, 64, height) + SINGLE * of_rows,
            tiles=blocks * tall,
        ),
        _reduce(rows * CONDITION, parts, SINGLE, 1, rows * CONDITION),
    )  # fmt: skip


def _network(model: Model) -> float:
    """Bytes of the condition network's parameters and of the conditions of both kinds of sites."""
    numbers = NETWORK * (3 * EMBEDDING + 1) + CONDITION * (NETWORK + 3)
    return SINGLE * (numbers + 2 * model.rows * CONDITION)


def _condition(model: Model) -> tuple[Launch, ...]:
    rows, linears = 2 * model.rows, NETWORK * 3 * EMBEDDING + CONDITION * NETWORK
    blocks = math.ceil(rows / 4)  # four rows share a read of the weights
    return (
        Launch(
            "condition_kernel<float>", blocks, THREADS, memory=_network(model),
            cache=_network(model) + (blocks - 1) * SINGLE * linears,
            lanes=blocks * linears * (4 + 4 * 10 / 32 + 4),  # products, their sums over a warp, addresses
            shared=blocks * 4 * SINGLE * linears, dynamic_shared=4 * SINGLE * (3 * EMBEDDING + NETWORK + CONDITION),
        ),
    )  # fmt: skip


def _condition_backward(model: Model) -> tuple[Launch, ...]:
    rows, linears = 2 * model.rows, NETWORK * 3 * EMBEDDING + CONDITION * NETWORK
    blocks, width = math.ceil(rows / 4), 6 * EMBEDDING + 2 * NETWORK + 4 * CONDITION
    kept = SINGLE * rows * width
    most, sums = NETWORK * 3 * EMBEDDING, NETWORK * 3 * EMBEDDING + CONDITION * NETWORK
    return (
        Launch(
            "condition_rows_kernel<float>", blocks, THREADS, memory=_network(model) + kept,
            cache=_network(model) + kept + (2 * blocks - 1) * SINGLE * linears,  # forward again, then backward
            lanes=2.0 * blocks * linears * 9, shared=2.0 * blocks * 4 * SINGLE * linears,
            dynamic_shared=4 * SINGLE * width,
        ),
        Launch(
            "condition_sums_kernel<float>", math.ceil(most / 32) * 9, THREADS, memory=SINGLE * sums, again=kept,
            cache=2.0 * SINGLE * rows * sums,  # two numbers for every row and result
            lanes=12.0 * rows * sums,
        ),
    )  # fmt: skip
