"""The launches of ``generate`` and ``condition`` in CUDA C++, from float32 parameters."""

import math

from bench.bounds.cuda_tiles import IN_FLIGHT, STEP, THREADS
from bench.bounds.cuda_tiles import reduce as _reduce
from bench.bounds.launches import CONDITION, EMBEDDING, HALF, NETWORK, SINGLE, Launch, Model, up

# Small products through shared memory (products.cuh): 64 columns a block, all numbers through a switch over dtypes.
_FETCH = 12.0  # instructions to read one number: its place, whether it exists, its dtype


def _height(rows: int) -> int:
    return 32 if rows <= 32 else 64


def _product_lanes(results: float, terms: int, fetched: float) -> float:
    return results * terms + _FETCH * fetched


def _product_shared(results: float, terms: int, height: int) -> float:
    """A warp reads height / 16 + 8 times 128 bytes for the 4 terms of its height × 2 × 4 results."""
    return results * terms * 128 * (height / 16 + 8) / (4 * 8 * height)


def generate(model: Model) -> tuple[Launch, ...]:
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


def generate_backward(model: Model) -> tuple[Launch, ...]:
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


def network(model: Model) -> float:
    """Bytes of the condition network's parameters and of the conditions of both kinds of sites."""
    numbers = NETWORK * (3 * EMBEDDING + 1) + CONDITION * (NETWORK + 3)
    return SINGLE * (numbers + 2 * model.rows * CONDITION)


def condition(model: Model) -> tuple[Launch, ...]:
    rows, linears = 2 * model.rows, NETWORK * 3 * EMBEDDING + CONDITION * NETWORK
    blocks = math.ceil(rows / 4)  # four rows share a read of the weights
    return (
        Launch(
            "condition_kernel<float>", blocks, THREADS, memory=network(model),
            cache=network(model) + (blocks - 1) * SINGLE * linears,
            lanes=blocks * linears * (4 + 4 * 10 / 32 + 4),  # products, their sums over a warp, addresses
            shared=blocks * 4 * SINGLE * linears, dynamic_shared=4 * SINGLE * (3 * EMBEDDING + NETWORK + CONDITION),
        ),
    )  # fmt: skip


def condition_backward(model: Model) -> tuple[Launch, ...]:
    rows, linears = 2 * model.rows, NETWORK * 3 * EMBEDDING + CONDITION * NETWORK
    blocks, width = math.ceil(rows / 4), 6 * EMBEDDING + 2 * NETWORK + 4 * CONDITION
    kept = SINGLE * rows * width
    most, sums = NETWORK * 3 * EMBEDDING, NETWORK * 3 * EMBEDDING + CONDITION * NETWORK
    return (
        Launch(
            "condition_rows_kernel<float>", blocks, THREADS, memory=network(model) + kept,
            cache=network(model) + kept + (2 * blocks - 1) * SINGLE * linears,  # forward again, then backward
            lanes=2.0 * blocks * linears * 9, shared=2.0 * blocks * 4 * SINGLE * linears,
            dynamic_shared=4 * SINGLE * width,
        ),
        Launch(
            "condition_sums_kernel<float>", math.ceil(most / 32) * 9, THREADS, memory=SINGLE * sums, again=kept,
            cache=2.0 * SINGLE * rows * sums,  # two numbers for every row and result
            lanes=12.0 * rows * sums,
        ),
    )  # fmt: skip
