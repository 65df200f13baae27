"""The launches of ``lora_linears`` in CUDA C++: our low-rank part first, each frozen product added to it."""

import math

from bench.bounds.cuda_tiles import (
    COLUMNS,
    STEP,
    THREADS,
    TILE,
    UNITS,
    WARPS,
    apart,
    reduce,
    stages_for,
    sum_splits,
)
from bench.bounds.device import H100
from bench.bounds.launches import HALF, SINGLE, Launch, Model, added_product, up

CACHED = 24 << 20  # lora_linear.cuh: bytes that surely stay in the second cache
OF_LAUNCH = 10 << 20  # lora_linear_backward.cu: bytes that the second cache moves while a launch begins
HELD_UNITS, HELD_WIDTH = 16, 768  # lora_linear_room.cuh: of all layers together; of each matrix
TALL = 32  # tokens of a tile where there are two of them and more for every multiprocessor; else 16


def _units(model: Model) -> int:
    return len(model.outs) * up(model.rank, 8)


def _height(tokens: int, roles: int) -> int:
    return TALL if tokens // TALL * roles >= 2 * H100.processors else TILE


def _low_rank(model: Model, tokens: int, width: int, through: int, **moved: float) -> Launch:
    """Of ``width`` numbers a token to units and on to ``through``; ``moved`` without the factors.

    Where tiles are few, several blocks share a tile's results, and each makes the units itself.
    """
    z = int(moved.pop("deep", 1))
    height, units = _height(tokens, z), _units(model)
    tiles = math.ceil(tokens / height)
    slices = min(max(H100.processors // (tiles * z), 1), max(math.ceil(up(through, STEP) / STEP / 8), 1))
    factors = HALF * units * (slices * width + through)
    kept = moved.pop("read") * (slices - 1)
    partial = SINGLE * 8 * (min(units, 16) + 8) + HALF * (units + 8)
    return Launch(
        f"low_rank_kernel<BFloat16, BFloat16, {height // TILE}>", tiles * slices * z, THREADS,
        memory=moved["memory"] + HALF * units * (width + through), again=moved.get("again", 0.0),
        cache=moved["cache"] + kept + tiles * factors,
        tensor=2.0 * tiles * height * units * (slices * width + through), lanes=2.0 * tokens * through,
        dynamic_shared=height * partial,
    )  # fmt: skip


def lora(model: Model, tokens: int) -> tuple[Launch, ...]:
    """All results in one launch where they stay in the second cache, else each right before its product."""
    x, units = HALF * tokens * model.hidden, HALF * tokens * _units(model)
    results = [HALF * tokens * out for out in model.outs]
    products = [added_product(tokens, out, model.hidden) for out in model.outs]
    if sum(results) <= CACHED:
        written = sum(results)
        first = _low_rank(model, tokens, model.hidden, sum(model.outs), read=x, memory=x + written, cache=x + written)
        return first, *products
    found: list[Launch] = []
    for i, (out, written) in enumerate(zip(model.outs, results, strict=True)):
        own = {"read": x, "memory": x + units + written, "cache": x + units + written}
        if i > 0:
            own = {"read": units, "memory": written, "again": units, "cache": units + written}
        found += [_low_rank(model, tokens, model.hidden if i == 0 else 0, out, **own), products[i]]
    return tuple(found)


def _at_once(model: Model, tokens: int) -> tuple[Launch, ...]:
    """All of our gradients by blocks that read each token once, and the sum of their parts; none where shared memory
    or tokens do not suffice."""
    units, own_rank, wide = _units(model), up(model.rank, 8), up(model.hidden, STEP)
    widths = [model.hidden, *model.outs]
    if units > HELD_UNITS or max(widths) > HELD_WIDTH:
        return ()
    tile = HALF * TILE * sum(apart(up(width, STEP)) for width in widths)
    few = 2 * HALF * TILE * (HELD_UNITS + 8) + SINGLE * WARPS * TILE * (2 * HELD_UNITS + 8)
    held = HALF * HELD_UNITS * (apart(wide) + up(max(model.outs), STEP)) + few
    most = stages_for(held, tile, static=1 << 10)
    tiles = math.ceil(tokens / TILE)
    part = SINGLE * (units * model.hidden + own_rank * sum(model.outs))
    read = HALF * tokens * sum(widths)
    at_most = min(tiles, H100.processors)
    worth = (read + OF_LAUNCH) // (2 * part)  # parts of one group, one of each block
    blocks = min(at_most, worth)
    if not most or 2 * blocks < at_most:
        return ()
    x, factors = HALF * tokens * model.hidden, HALF * (units * model.hidden + own_rank * sum(model.outs))
    # of a tile: it comes once and is read twice, as are the factors of x; those of the gradients once; units of eight
    # warps; what reaches x is put in rows
    of_tile = 3 * tile + HALF * HELD_UNITS * (2 * wide + max(model.outs)) + HALF * TILE * 2 * wide
    of_tile += 2 * SINGLE * WARPS * TILE * 2 * HELD_UNITS + HALF * TILE * HELD_UNITS * (2 + 3 * WARPS)
    return (
        Launch(
            "resident_low_rank_kernel<BFloat16>", blocks, THREADS,
            memory=read + x + blocks * part + factors, cache=read + x + blocks * (part + factors),
            tensor=2.0 * tiles * TILE * (3 * HELD_UNITS * wide + 2 * own_rank * sum(model.outs)),
            lanes=tokens * (WARPS + 2.0) * 2 * HELD_UNITS + tokens * wide, shared=tiles * of_tile,
            dynamic_shared=held + most * tile, tiles=tiles,
        ),
        reduce(_numbers(model), blocks * part, HALF, 2 * len(model.outs), model.rank * max(widths)),
    )  # fmt: skip


def _numbers(model: Model) -> int:
    return model.rank * (len(model.outs) * model.hidden + sum(model.outs))


def lora_backward(model: Model, tokens: int) -> tuple[Launch, ...]:
    """Our gradients, and then the frozen products'."""
    products = (added_product(tokens, model.hidden, out, again=HALF * tokens * out) for out in model.outs)
    return *(_at_once(model, tokens) or _one_by_one(model, tokens)), *products


def _one_by_one(model: Model, tokens: int) -> tuple[Launch, ...]:
    """What goes through the units, of x and of the gradients, the sums over the same tokens, and their parts."""
    features, units, own_rank = model.hidden + sum(model.outs), _units(model), up(model.rank, 8)
    x, grads, kept = HALF * tokens * model.hidden, HALF * tokens * sum(model.outs), 2 * HALF * tokens * units
    moved = 2 * x + grads + kept  # x, ∂x, the gradients
    slices = math.ceil(model.hidden / COLUMNS) * math.ceil(units / UNITS)
    slices += sum(math.ceil(out / COLUMNS) for out in model.outs)
    splits = sum_splits(tokens, slices)
    parts = SINGLE * splits * (units * model.hidden + own_rank * sum(model.outs))
    read = HALF * tokens * (units * math.ceil(model.hidden / COLUMNS)
                            + own_rank * sum(math.ceil(out / COLUMNS) for out in model.outs))  # fmt: skip
    return (
        _low_rank(model, tokens, sum(model.outs), model.hidden, read=grads, memory=moved, cache=moved, deep=2),
        Launch(
            "sum_units_kernel<BFloat16, BFloat16>", slices * splits, THREADS,
            memory=parts, recent=x + grads + kept,
            cache=math.ceil(units / UNITS) * x + grads + read + parts,
            tensor=2.0 * up(tokens, TILE) * (units * model.hidden + own_rank * sum(model.outs)),
            lanes=2.0 * tokens * features,
        ),
        reduce(_numbers(model), parts, HALF, 2 * len(model.outs), model.rank * max(model.hidden, *model.outs)),
    )  # fmt: skip
