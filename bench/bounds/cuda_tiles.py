"""What several CUDA operators launch alike: sums over tokens, and the reduction of their parts."""

import math

from bench.bounds.device import H100
from bench.bounds.launches import HALF, SINGLE, Launch, up

STEP, TILE = 32, 16  # tiles.cuh: widths are padded to it; tokens of a tile
WARPS, THREADS = 8, 256  # of a block
MOST_STAGES = 3  # resident.cuh: tiles in shared memory
COLUMNS, UNITS = 64, 32  # sums.cu: of a block


def apart(width: int) -> int:
    """Numbers from row to row in shared memory, so that eight neighbours lie in different banks."""
    return width + 8


def stages_for(fixed: int, stage: int, static: int) -> int:
    """Tiles that fit beside what is fixed: three, two, or none where not even two do."""
    most = H100.shared_of_block - static - fixed
    return next((stages for stages in range(MOST_STAGES, 1, -1) if stages * stage <= most), 0)


def sum_blocks(units: int, columns: int) -> int:
    """Blocks that sum so many units and columns."""
    return math.ceil(units / UNITS) * math.ceil(columns / COLUMNS)


def sum_splits(tokens: int, blocks: int) -> int:
    """Parts that sums of so many blocks in all are cut into, a block for every multiprocessor."""
    return max(min(H100.processors // max(blocks, 1), math.ceil(tokens / TILE) // 16), 1)


def sum_units(tokens: int, products: list[tuple[int, int]], splits: int, first: float, before: float) -> Launch:
    """``products``: units and columns. Of what is read, ``first`` bytes are for the first time, ``before`` once more.

    Columns are read once for every 32 units, units once for every 64 columns.
    """
    parts = SINGLE * splits * sum(units * columns for units, columns in products)
    blocks = [(math.ceil(units / UNITS), math.ceil(columns / COLUMNS)) for units, columns in products]
    read = sum(
        HALF * (columns * rows + units * slices)
        for (units, columns), (rows, slices) in zip(products, blocks, strict=True)
    )
    return Launch(
        "sum_units_kernel<BFloat16, BFloat16>", sum(rows * slices for rows, slices in blocks) * splits, THREADS,
        memory=first + parts, again=before, cache=tokens * read + parts,
        tensor=2.0 * up(tokens, TILE) * sum(units * columns for units, columns in products),
        lanes=2.0 * tokens * sum(columns * rows for (_, columns), (rows, _) in zip(products, blocks, strict=True)),
    )  # fmt: skip


def reduce(results: float, parts: float, size: int, count: int, most: int) -> Launch:
    """``count`` reductions of parts that an earlier launch wrote, together to ``results`` numbers, ``most`` at once."""
    return Launch("reduce_kernel<float>", math.ceil(most / 32) * count, THREADS, memory=size * results, again=parts,
                  cache=size * results + parts, lanes=4 * parts / SINGLE)  # fmt: skip
