"""The launches of ``generate`` and ``condition`` in CUDA C++, from float32 parameters."""

import math

from bench.bounds.cuda_tiles import THREADS, reduce
from bench.bounds.launches import CONDITION, EMBEDDING, HALF, NETWORK, SINGLE, Launch, Model, up

OUTPUTS, SHARES = 64, 264  # of a block; blocks that share all outputs, two for each multiprocessor
_FETCHED = 1.5  # instructions to read a number, eight at a time


def generate(model: Model) -> tuple[Launch, ...]:
    """All heads in one launch, 64 outputs and up to 64 rows a block, which reads its weights once."""
    outputs, rows = sum(model.heads), 1 if model.rows <= 32 else 2
    height = 32 * rows
    blocks, tall = sum(math.ceil(head / OUTPUTS) for head in model.heads), math.ceil(model.rows / height)
    weights, results = SINGLE * outputs * (CONDITION + 1), HALF * outputs * model.rows
    fetched, multiplied = blocks * tall * (OUTPUTS + height) * CONDITION, blocks * tall * OUTPUTS * height * CONDITION
    return (
        Launch(
            f"generate_kernel<float, {rows}>", blocks * tall, THREADS, memory=weights + results,
            cache=tall * weights + results + blocks * tall * SINGLE * height * CONDITION,  # conditions in each
            lanes=multiplied + _FETCHED * fetched + 3.0 * outputs * model.rows,
            # a warp reads rows + 8 times 128 bytes for 4 terms of its 32 × 8 × rows results
            shared=multiplied * 128 * (rows + 8) / (1024 * rows) + SINGLE * fetched,
        ),
    )  # fmt: skip


def generate_backward(model: Model) -> tuple[Launch, ...]:
    """Both gradients from one read of the results' gradients and of the weights; then the conditions' parts."""
    outputs, rows = sum(model.heads), model.rows
    height = 32 if rows <= 32 else 64
    blocks, turns = sum(math.ceil(head / OUTPUTS) for head in model.heads), math.ceil(rows / height)
    weights, grads, biases = SINGLE * outputs * CONDITION, HALF * outputs * rows, SINGLE * outputs
    shares = min(blocks, SHARES)
    parts, conditions = SINGLE * shares * rows * CONDITION, SINGLE * rows * CONDITION
    waiting = 2 * SINGLE * rows * CONDITION * blocks + conditions * blocks if turns > 1 else conditions * shares
    fetched = blocks * (OUTPUTS * CONDITION + up(rows, height) * OUTPUTS)
    of_weights, of_rows = (float(blocks * OUTPUTS * CONDITION * count) for count in (rows, up(rows, height)))
    per = 10 / 1024 if height == 32 else 12 / 2048  # reads of 128 bytes by a warp, a multiply-add
    return (
        Launch(
            f"generate_backward_kernel<float, {height // 16}>", shares, THREADS,
            memory=2 * weights + grads + biases + parts,
            cache=2 * weights + grads + biases + parts + waiting,
            lanes=of_weights + of_rows + _FETCHED * fetched + blocks * OUTPUTS * rows,
            shared=128 * (of_weights * 3 / 512 + of_rows * per) + SINGLE * fetched,
            dynamic_shared=SINGLE * 68 * (2 * height + OUTPUTS), tiles=blocks,
        ),
        reduce(rows * CONDITION, parts, SINGLE, 1, rows * CONDITION),
    )  # fmt: skip


def network(model: Model) -> float:
    """Bytes of the condition network's parameters and of the conditions of both kinds of sites."""
    numbers = NETWORK * (3 * EMBEDDING + 1) + CONDITION * (NETWORK + 3)
    return SINGLE * (numbers + 2 * model.rows * CONDITION)


_LINEARS = NETWORK * 3 * EMBEDDING + CONDITION * NETWORK  # weights of the network


def condition(model: Model) -> tuple[Launch, ...]:
    """Four rows a block, which reads all weights."""
    blocks = math.ceil(2 * model.rows / 4)
    return (
        Launch(
            "condition_kernel<float>", blocks, THREADS, memory=network(model),
            cache=network(model) + (blocks - 1) * SINGLE * _LINEARS,
            lanes=blocks * _LINEARS * (4 + 1 + 12 / 24),  # four rows' products, their weight, sums over eight lanes
            shared=blocks * 4 * SINGLE * _LINEARS / 4,  # four units read the same numbers
            dynamic_shared=4 * SINGLE * (3 * EMBEDDING + NETWORK + CONDITION),
        ),
    )  # fmt: skip


def condition_backward(model: Model) -> tuple[Launch, ...]:
    """The rows once more, forward and backward; then nine sums over them."""
    rows, blocks = 2 * model.rows, math.ceil(2 * model.rows / 4)
    width = 6 * EMBEDDING + 2 * NETWORK + 4 * CONDITION
    kept = SINGLE * rows * width
    kinds = rows // model.layers  # of sites
    sums = [*(count * EMBEDDING for count in (1, model.layers, kinds)), NETWORK * 3 * EMBEDDING, NETWORK,
            CONDITION * NETWORK, CONDITION, CONDITION, CONDITION]  # fmt: skip
    return (
        Launch(
            "condition_rows_kernel<float>", blocks, THREADS, memory=network(model) + kept,
            cache=network(model) + kept + (2 * blocks - 1) * SINGLE * _LINEARS,
            lanes=blocks * _LINEARS * (5.5 + 7), shared=blocks * 4 * SINGLE * _LINEARS * (1 / 4 + 1 / 32),
            dynamic_shared=4 * SINGLE * width,
        ),
        Launch(
            "condition_sums_kernel<float>", sum(math.ceil(count / 32) for count in sums), THREADS,
            memory=SINGLE * _LINEARS, again=kept,
            cache=2.0 * SINGLE * rows * _LINEARS,  # two numbers for every row and result
            lanes=12.0 * rows * _LINEARS,
        ),
    )  # fmt: skip
