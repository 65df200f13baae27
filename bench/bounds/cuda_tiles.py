"""What several CUDA operators launch alike: sums over tokens, and the reduction of their parts."""

import math

from bench.bounds.launches import HALF, SINGLE, Launch, up

STEP, TILE, THREADS = 32, 16, 256  # tiles.cuh: widths are padded to it; tokens of a tile; threads of a block
IN_FLIGHT = 512  # blocks that sums over tokens are cut into at most


def splits_for(tokens: int, results: int) -> int:
    """Parts that a sum over tokens is cut into; see ``splits_for`` in sums.cu."""
    tiles = math.ceil(tokens / TILE)
    return max(min(IN_FLIGHT // max(results // (STEP * STEP), 1), tiles // 16), 1)


def sum_products(tokens: int, products: list[tuple[int, int]], splits: int, first: float, before: float) -> Launch:
    """``products``: units and columns. Of what is read, ``first`` bytes are for the first time, ``before`` once more.

    Columns are read once for every 32 units, float32 units once for every 32 columns.
    """
    parts = SINGLE * splits * sum(units * columns for units, columns in products)
    padded = [(up(units, STEP), up(columns, STEP)) for units, columns in products]
    read = sum(
        HALF * columns * (rows // STEP) + SINGLE * units * (wide // STEP)
        for (units, columns), (rows, wide) in zip(products, padded, strict=True)
    )
    results = sum(rows * wide for rows, wide in padded)
    return Launch(
        "sum_products_kernel<BFloat16, BFloat16>", results // STEP**2 * splits, THREADS,
        memory=first + parts, again=before, cache=tokens * read + parts,
        tensor=2.0 * up(tokens, TILE) * results,
        lanes=3.0 * tokens * results / STEP,  # a unit is rounded again for every 32 columns
    )  # fmt: skip


def reduce(results: float, parts: float, size: int, count: int, most: int) -> Launch:
    """``count`` reductions of parts that an earlier launch wrote, together to ``results`` numbers, ``most`` at once."""
    return Launch("reduce_kernel<float>", math.ceil(most / 32) * count, THREADS, memory=size * results, again=parts,
                  cache=size * results + parts, lanes=4 * parts / SINGLE)  # fmt: skip
