"""Every launch of the CUDA kernels in bfloat16, with one set of weights and the norm behind the adapter.

Counted from ``csrc/cuda``; the paths, grids and block sizes are those of its host code on an H100.
"""

import math

from bench.bounds.cuda_generate import condition, condition_backward, generate, generate_backward, network
from bench.bounds.cuda_lora import lora, lora_backward
from bench.bounds.cuda_tiles import STEP, THREADS, TILE, WARPS, apart, stages_for, sum_blocks, sum_splits, sum_units
from bench.bounds.device import H100
from bench.bounds.launches import (
    CONDITION,
    HALF,
    SINGLE,
    Call,
    Launch,
    Model,
    copy,
    frozen,
    frozen_backward,
    up,
)

STATIC = 22 << 10  # adapter_resident.cuh: bytes that every kernel has
FEW_COLUMNS, MOST_COLUMNS = 512, 1024  # adapter_resident.cuh: hidden units whose v a block keeps in registers
LEAST_SHARES = 4  # adapter_few.cuh: blocks that share a tile
TALLEST, PLACES, UNIT_STEPS = 4, 2, 2  # streamed.cuh: tiles of a block elsewhere, places for pieces, units at once
SECTOR = 32  # bytes that memory gives at least
CHUNK = 8  # adapter_layout.cu: columns of a block that multiplies them with as many


def calls(model: Model, tokens: int) -> list[Call]:
    """Every operator that reads tokens, at ``tokens``."""
    row = HALF * tokens * model.hidden
    made = [
        ("adapter forward", adapter(model, tokens), copy(2 * row)),
        ("adapter backward", adapter_backward(model, tokens), copy(3 * row)),
        ("lora_linears forward", lora(model, tokens), frozen(model, tokens)),
        ("lora_linears backward", lora_backward(model, tokens), frozen_backward(model, tokens)),
    ]
    return [Call("cuda", name, model.name, tokens, launches, floor) for name, launches, floor in made]


def calls_without_tokens(model: Model) -> list[Call]:
    """Generation of the adapters of a stack from float32 parameters, and its conditions."""
    outputs = sum(model.heads)
    parameters, results = SINGLE * outputs * (CONDITION + 1), HALF * outputs * model.rows
    made = [
        ("generate forward", generate(model), copy(parameters + results)),
        ("generate backward", generate_backward(model), copy(2 * parameters + results)),
        ("condition forward", condition(model), copy(network(model))),
        ("condition backward", condition_backward(model), copy(2 * network(model))),
    ]
    return [Call("cuda", name, model.name, 0, launches, floor) for name, launches, floor in made]


def _few(columns: int) -> int:
    """Bytes of a token's few numbers in shared memory."""
    return SINGLE * up(columns, 4)


def _forward_room(model: Model) -> tuple[int, int]:
    """Bytes of shared memory of a block that keeps both matrices, and its stages; see ``Room``."""
    wide, thin = up(model.hidden, STEP), up(model.bottleneck, STEP)
    fixed = 2 * HALF * wide * thin + HALF * TILE * apart(thin) + SINGLE * (thin + 3 * wide)
    tile = HALF * TILE * apart(wide)
    stages = stages_for(fixed, tile, STATIC)
    if model.hidden > MOST_COLUMNS or model.hidden % 8:  # rows of tokens are copied in whole 16 bytes
        stages = 0
    return fixed + stages * tile, stages


def _backward_room(model: Model) -> tuple[int, int]:
    """The same of the backward; see ``BackwardRoom``."""
    wide, thin, columns = up(model.hidden, STEP), up(model.bottleneck, STEP), model.bottleneck + 1
    fixed = HALF * wide * (up(columns + 1, STEP) + thin) + SINGLE * (wide + columns * (columns + 1))
    fixed += 4 * TILE * _few(columns + 1) + HALF * TILE * apart(thin)
    stage = HALF * TILE * apart(wide) + SINGLE * TILE * model.bottleneck
    stages = stages_for(fixed, stage, STATIC) if model.bottleneck % 4 == 0 and model.hidden % 8 == 0 else 0
    return fixed + stages * stage, stages


def _resident_blocks(tiles: int, shared: int, most: int) -> int:
    return min(tiles, H100.processors * min(most, H100.shared_bytes // (shared + STATIC)))


def _lay_out(model: Model, forward: bool, moments: bool = True) -> Launch:
    """Blocks for each pair of chunks of columns, whose rows are read for the means and, by each half of the block, for
    the products; then blocks that copy the matrices."""
    wide, columns, matrix = up(model.hidden, STEP), model.bottleneck + 1, HALF * model.hidden * model.bottleneck
    units = up(model.bottleneck, STEP) if forward else up(columns + 1, STEP)
    chunks = math.ceil(columns / CHUNK) if moments else 0
    pairs, few = chunks * (chunks + 1) // 2, SINGLE * columns * (wide + columns) if moments else 0
    written = HALF * wide * (units + up(model.bottleneck, STEP)) + few
    return Launch(
        f"lay_out_adapter_kernel<float, BFloat16, {str(forward).lower()}, {str(moments).lower()}>",
        pairs + units * math.ceil(wide / THREADS), THREADS,
        memory=2 * matrix + written,
        cache=2 * matrix + written + pairs * 6 * SECTOR * model.hidden,
        lanes=pairs * model.hidden * (CHUNK**2 + 8.0 * CHUNK),  # products; of a number its place, sum and difference
    )  # fmt: skip


def _shares(model: Model, tokens: int, shares: int) -> tuple[Launch, ...]:
    """Few tokens of many hidden units: blocks share a tile's hidden units, and v is written out."""
    wide, thin, tiles = up(model.hidden, STEP), up(model.bottleneck, STEP), math.ceil(tokens / TILE)
    weight, row, pre = HALF * wide * thin, HALF * tokens * model.hidden, SINGLE * tokens * model.bottleneck
    tensor, few, v = 2.0 * tiles * TILE * wide * thin, SINGLE * tokens * thin, SINGLE * tokens * wide
    return (
        _lay_out(model, forward=True, moments=False),
        Launch(
            "shrink_share_kernel<BFloat16, BFloat16>", tiles * shares, THREADS,
            memory=row + shares * few, recent=weight, cache=row + shares * few + tiles * weight, tensor=tensor,
            dynamic_shared=SINGLE * WARPS * TILE * (STEP + 8),
        ),
        Launch(
            "expand_share_kernel<BFloat16, BFloat16, true>", tiles * shares, THREADS,
            memory=v + pre, again=weight, recent=shares * few, tensor=tensor,
            cache=v + pre + shares**2 * few + tiles * (weight + SINGLE * wide),
            dynamic_shared=HALF * TILE * (thin + 8),
        ),
        Launch(
            "norm_kernel<BFloat16, BFloat16>", tokens, THREADS, memory=row, recent=v, again=row,
            cache=3 * v + 2 * row + 2 * SINGLE * tokens * wide, lanes=12.0 * tokens * wide,
        ),
    )  # fmt: skip


def _pieces(tall: int, blocks: int) -> int:
    """Bytes of all warps' places for a piece of ``tall`` tiles and so many blocks of a matrix."""
    return HALF * WARPS * PLACES * (tall * TILE * apart(STEP) + blocks * STEP**2)


def _streamed(tokens: int, wide: int, units: int, thin: int, few: int, after: int, moments: int) -> tuple[int, int]:
    """Tiles of a block whose weights pass through shared memory, as many as make the busiest multiprocessor read least,
    and its bytes there; see ``streamed_tiles``. Of a token it has ``few`` bytes while the first product is made, and
    ``after`` it so many, beside the group's ``moments``."""
    found = []
    for tall in (TALLEST, 2, 1):
        height = tall * TILE
        partial = SINGLE * WARPS * height * (STEP + 8)
        shrinking = max(_pieces(tall, UNIT_STEPS), partial, height * after + moments)
        shared = HALF * height * apart(thin) + max(height * few + shrinking, _pieces(tall, thin // STEP))
        read = wide * (units + thin + height * (math.ceil(units / STEP / UNIT_STEPS) + 2))
        if shared <= H100.shared_of_block:
            found.append((math.ceil(math.ceil(tokens / height) / H100.processors) * read, -tall, shared))
    _, tall, shared = min(found)
    return -tall, shared


def adapter(model: Model, tokens: int) -> tuple[Launch, ...]:
    """One launch where the weights stay in shared memory, else one that lays them out and one that reads them, or for
    few tokens three."""
    wide, thin, tiles = up(model.hidden, STEP), up(model.bottleneck, STEP), math.ceil(tokens / TILE)
    weight, row = HALF * wide * thin, HALF * tokens * model.hidden
    pre, tensor = SINGLE * tokens * model.bottleneck, 4.0 * tiles * TILE * wide * thin
    shared, stages = _forward_room(model)
    if stages:
        few = model.hidden <= FEW_COLUMNS
        blocks = _resident_blocks(tiles, shared, 2)
        given = HALF * (2 * model.hidden * model.bottleneck + 3 * model.hidden)
        # of a tile: both matrices, x written once and read twice, a by all columns, partial sums of eight warps
        held = 2 * weight + HALF * TILE * (3 * wide + thin * wide // STEP) + 2 * SINGLE * WARPS * TILE * thin
        return (
            Launch(
                f"resident_adapter_kernel<BFloat16, true, {2 if few else 4}>", blocks, THREADS,
                memory=2 * row + pre + given, cache=2 * row + pre + blocks * given, tensor=tensor,
                lanes=7.0 * tokens * wide,  # of a number: mean, distance, square, norm in two, residual in two
                shared=tiles * (held + 3 * SINGLE * wide), dynamic_shared=shared, tiles=tiles,
            ),
        )  # fmt: skip
    shares = min(H100.processors // tiles, wide // STEP // WARPS)
    if model.hidden > MOST_COLUMNS and shares >= LEAST_SHARES:
        return _shares(model, tokens, shares)
    columns = model.bottleneck + 1
    moments, vectors = SINGLE * columns**2, SINGLE * 3 * wide
    tall, shared = _streamed(tokens, wide, thin, thin, _few(columns), _few(columns), moments)
    blocks, passes = math.ceil(tiles / tall), math.ceil(thin / STEP / UNIT_STEPS)
    return (
        _lay_out(model, forward=True),
        Launch(
            f"streamed_adapter_kernel<BFloat16, true, {tall}>", blocks, THREADS,
            memory=2 * row + pre, again=2 * weight,
            # x for every 64 units and for the residual
            cache=(passes + 2) * row + pre + blocks * (2 * weight + moments + vectors), tensor=tensor,
            lanes=9.0 * tokens * wide + 3.0 * tiles * TILE * columns**2,
            # a piece of x written and read, one of the weights likewise; the moments for every two tokens
            shared=2 * (passes + 1) * row + blocks * 4 * weight + tokens / 2 * moments, dynamic_shared=shared,
        ),
    )  # fmt: skip


def adapter_backward(model: Model, tokens: int) -> tuple[Launch, ...]:
    """The weights laid out, the tokens, the sums over them, and the gradients of those sums."""
    wide, thin, tiles = up(model.hidden, STEP), up(model.bottleneck, STEP), math.ceil(tokens / TILE)
    columns, units = model.bottleneck + 1, up(model.bottleneck + 2, STEP)
    of_pre, of_basis = up(model.bottleneck, 8), up(model.bottleneck + 2, 8)
    basis = of_pre + up(columns, 8)
    row, pre = HALF * tokens * model.hidden, SINGLE * tokens * model.bottleneck
    few, a = HALF * tokens * (basis + of_basis), HALF * tokens * of_basis
    weights, moments = HALF * wide * (units + thin), SINGLE * columns**2
    tensor = 2.0 * tiles * TILE * wide * (units + thin)
    # of a token: its products with the moments, activation and slope of each unit
    lanes = tokens * (3.0 * wide + 3 * columns**2 + 60 * model.bottleneck)
    shared, stages = _backward_room(model)
    if stages:
        blocks = _resident_blocks(tiles, shared, 2)
        held = weights + HALF * TILE * (3 * wide + thin * wide // STEP) + 2 * SINGLE * WARPS * TILE * units
        kernel = Launch(
            "resident_backward_kernel<BFloat16, true>", blocks, THREADS, memory=2 * row + pre + few + a,
            again=weights + moments, tensor=tensor,
            cache=2 * row + pre + few + a + blocks * (weights + moments + SINGLE * (wide + columns)),
            lanes=lanes, shared=tiles * (held + TILE * moments), dynamic_shared=shared, tiles=tiles,
        )  # fmt: skip
    else:
        tall, shared = _streamed(tokens, wide, units, thin, _few(columns + 1), 3 * _few(columns + 1), moments)
        blocks, passes = math.ceil(tiles / tall), math.ceil(units / STEP / UNIT_STEPS)
        kernel = Launch(
            f"streamed_backward_kernel<BFloat16, true, {tall}>", blocks, THREADS,
            memory=2 * row + pre + few + a, again=weights + moments, tensor=tensor, lanes=lanes,
            # g for every 64 units and for the residual
            cache=(passes + 2) * row + pre + few + a + blocks * (weights + moments + SINGLE * wide),
            shared=2 * (passes + 1) * row + blocks * 2 * weights + tokens / 2 * moments, dynamic_shared=shared,
        )  # fmt: skip
    products = [(of_pre, model.hidden), (of_basis, model.hidden), (basis, of_basis)]
    splits = sum_splits(tokens, sum(sum_blocks(*one) for one in products))
    sums = sum_units(tokens, products, splits, first=row, before=row + few + a)
    of_up, of_down = (SINGLE * splits * count * model.hidden for count in (of_basis, of_pre))
    of_few, centred = SINGLE * splits * basis * of_basis, SINGLE * columns * wide
    results = HALF * (2 * model.hidden * model.bottleneck + model.bottleneck + 3 * model.hidden)
    finish = Launch(
        "finish_adapter_kernel<float>",
        (2 * model.bottleneck + 1 + math.ceil(model.hidden / 32)) * math.ceil(model.hidden / THREADS), THREADS,
        memory=results, again=of_up + of_down + of_few + centred,
        # the basis' sums for their mean, for `up` and for the norm; all centred columns for each column
        cache=results + 3 * of_up + of_down + of_few + (columns + 1) * centred,
        lanes=(3 * of_up + of_down) / SINGLE * 2 + 3.0 * columns**2 * wide,
        dynamic_shared=SINGLE * columns,
    )  # fmt: skip
    return _lay_out(model, forward=False), kernel, sums, finish
