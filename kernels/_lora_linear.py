"""The low-rank part of LoRA linears of one ``x``, packed: the ranks of all projections are the columns of one product.

A program holds BLOCK_T tokens of one group, and their ``x · lora_Aᵀ``. The frozen products are not made here. The
forward reads x once; the backward x and every gradient once from memory, x a second time from the second cache, where
the sums of a program stay as well: it adds to them tile by tile.
"""

import triton
import triton.language as tl

from hyperloader.kernels._math import load_block, store_block
from hyperloader.kernels._tokens import members_of, tile_of


@triton.jit
def _load_A(
    lora_A, group, columns, RANKS: tl.constexpr, FIRSTS: tl.constexpr, IN: tl.constexpr, DOT: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Columns of all ``lora_A``, one below the other: [BLOCK_R, BLOCK_K]."""
    ranks = tl.arange(0, BLOCK_R)
    packed = tl.zeros((BLOCK_R, BLOCK_K), DOT)
    for i in tl.static_range(len(lora_A)):
        own = (ranks >= FIRSTS[i]) & (ranks < FIRSTS[i] + RANKS[i])
        ptr = lora_A[i] + group * (RANKS[i] * IN)
        packed += load_block(ptr, ranks - FIRSTS[i], own, IN, columns, columns < IN).to(DOT)
    return packed


@triton.jit
def _load_B(ptr, group, columns, RANK: tl.constexpr, FIRST: tl.constexpr, OUT: tl.constexpr, BLOCK_R: tl.constexpr):
    """Rows of one ``lora_B`` at its place among the ranks: [columns, BLOCK_R], zero elsewhere."""
    ranks = tl.arange(0, BLOCK_R)
    own = (ranks >= FIRST) & (ranks < FIRST + RANK)
    return load_block(ptr + group * (RANK * OUT), columns, columns < OUT, RANK, ranks - FIRST, own)


@triton.jit
def _shrink(
    x_ptr, lora_A, rows, in_rows, group, RANKS: tl.constexpr, FIRSTS: tl.constexpr, IN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """``x · lora_Aᵀ`` [BLOCK_T, BLOCK_R], float32."""
    shrunk = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
    for start in range(0, IN, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        x = load_block(x_ptr, rows, in_rows, IN, columns, columns < IN).to(DOT)
        packed = _load_A(lora_A, group, columns, RANKS, FIRSTS, IN, DOT, BLOCK_R, BLOCK_K)
        shrunk = tl.dot(x, tl.trans(packed), shrunk, input_precision=PRECISION)
    return shrunk


@triton.jit(do_not_specialize=["length", "groups"])
def forward_kernel(
    x_ptr, lora_A, lora_B, ys, group_ptr, length, groups, scaling,
    RANKS: tl.constexpr, FIRSTS: tl.constexpr, IN: tl.constexpr, OUTS: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """``ys[i] += scaling · (x · lora_A[i]ᵀ) · lora_B[i]ᵀ``."""
    rows, in_rows, group = tile_of(group_ptr, length, groups, BLOCK_T)
    shrunk = _shrink(x_ptr, lora_A, rows, in_rows, group, RANKS, FIRSTS, IN, DOT, PRECISION, BLOCK_T, BLOCK_K, BLOCK_R)
    shrunk = (scaling * shrunk).to(DOT)
    for i in tl.static_range(len(ys)):
        for start in tl.range(0, OUTS[i], BLOCK_K, num_stages=STAGES):
            columns = start + tl.arange(0, BLOCK_K)
            in_columns = columns < OUTS[i]
            up = _load_B(lora_B[i], group, columns, RANKS[i], FIRSTS[i], OUTS[i], BLOCK_R).to(DOT)
            y = load_block(ys[i], rows, in_rows, OUTS[i], columns, in_columns).to(tl.float32)
            y = tl.dot(shrunk, tl.trans(up), y, input_precision=PRECISION)
            store_block(ys[i], rows, in_rows, OUTS[i], columns, in_columns, y)


@triton.jit
def _add_product(
    ptr, added, left, right, first, columns, RANK: tl.constexpr, SIZE: tl.constexpr, PRECISION: tl.constexpr
):
    """Add ``leftᵀ · right`` to the columns of a matrix (RANK, SIZE), which has the product's rows from ``first`` on.

    Unless ``added``, nothing is there yet.
    """
    ranks = tl.arange(0, left.shape[1]) - first
    own = (ranks >= 0) & (ranks < RANK)
    ptr += ranks[:, None] * SIZE + columns[None, :]
    there = own[:, None] & (columns < SIZE)[None, :]
    total = tl.load(ptr, mask=there & added, other=0.0, eviction_policy="evict_last")
    total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    tl.store(ptr, total, mask=there, eviction_policy="evict_last")


@triton.jit(do_not_specialize=["length", "groups", "sentences", "splits"])
def tokens_kernel(
    grads, x_ptr, lora_A, lora_B, group_ptr, order_ptr, grad_x_ptr, partial_ptr, length, groups, sentences, splits,
    scaling, RANKS: tl.constexpr, FIRSTS: tl.constexpr, IN: tl.constexpr, OUTS: tl.constexpr,
    PLACES_A: tl.constexpr, PLACES_B: tl.constexpr, TOTAL: tl.constexpr, RANK: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Add the update's part to ``grad_x`` (None where it is not wanted), and sum up the gradients of the weights.

    A program goes over every ``splits``-th tile of one group. Its sums over them, TOTAL numbers, are its own: every
    ``lora_A`` gradient at PLACES_A, with RANK rows together, and every ``lora_B`` gradient, transposed, at PLACES_B;
    () where they are not wanted. What a step reads, its sums too, is on its way while the STAGES - 1 before it compute.
    """
    split = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    begin, members = 0, 1
    if group_ptr is not None:
        begin, members = members_of(group_ptr, group, groups, sentences, BLOCK_S)
    partial_ptr += (group * splits + split) * TOTAL
    tiles = tl.cdiv(length, BLOCK_T)
    if split >= members * tiles:
        for start in range(0, TOTAL, 1024):
            numbers = start + tl.arange(0, 1024)
            tl.store(partial_ptr + numbers, tl.zeros((1024,), tl.float32), mask=numbers < TOTAL)
    for tile in range(split, members * tiles, splits):
        sentence = (begin + tile // tiles).to(tl.int64)
        if group_ptr is not None:
            sentence = tl.load(order_ptr + sentence).to(tl.int64)
        tokens = tile % tiles * BLOCK_T + tl.arange(0, BLOCK_T)
        rows, in_rows = sentence * length + tokens, tokens < length
        added = tile > split
        tl.debug_barrier()  # the sums of the tile before are written

        if len(PLACES_B) > 0:
            shrunk = _shrink(
                x_ptr, lora_A, rows, in_rows, group, RANKS, FIRSTS, IN, DOT, PRECISION, BLOCK_T, BLOCK_K, BLOCK_R
            )
            shrunk = (scaling * shrunk).to(DOT)
        grad_shrunk = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
        for i in tl.static_range(len(grads)):
            for start in tl.range(0, OUTS[i], BLOCK_K, num_stages=STAGES):
                columns = start + tl.arange(0, BLOCK_K)
                grad = load_block(grads[i], rows, in_rows, OUTS[i], columns, columns < OUTS[i]).to(DOT)
                up = _load_B(lora_B[i], group, columns, RANKS[i], FIRSTS[i], OUTS[i], BLOCK_R).to(DOT)
                grad_shrunk = tl.dot(grad, up, grad_shrunk, input_precision=PRECISION)
                if len(PLACES_B) > 0:
                    _add_product(
                        partial_ptr + PLACES_B[i], added, shrunk, grad, FIRSTS[i], columns, RANKS[i], OUTS[i], PRECISION
                    )
        grad_shrunk = (scaling * grad_shrunk).to(DOT)
        if grad_x_ptr is not None:
            for start in tl.range(0, IN, BLOCK_K, num_stages=STAGES):
                columns = start + tl.arange(0, BLOCK_K)
                packed = _load_A(lora_A, group, columns, RANKS, FIRSTS, IN, DOT, BLOCK_R, BLOCK_K)
                grad_x = load_block(grad_x_ptr, rows, in_rows, IN, columns, columns < IN).to(tl.float32)
                grad_x = tl.dot(grad_shrunk, packed, grad_x, input_precision=PRECISION)
                store_block(grad_x_ptr, rows, in_rows, IN, columns, columns < IN, grad_x)
        if len(PLACES_A) > 0:
            for start in tl.range(0, IN, BLOCK_K, num_stages=STAGES):
                columns = start + tl.arange(0, BLOCK_K)
                x = load_block(x_ptr, rows, in_rows, IN, columns, columns < IN).to(DOT)
                # the ranks of all linears lie side by side
                _add_product(partial_ptr + PLACES_A[0], added, grad_shrunk, x, 0, columns, RANK, IN, PRECISION)


@triton.jit
def _add_shares(
    partial_ptr, out_ptr, block, splits, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TOTAL: tl.constexpr,
    TRANSPOSED: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    columns = block * BLOCK_C + tl.arange(0, BLOCK_C)
    ranks = tl.arange(0, BLOCK_R)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for split in tl.range(splits, loop_unroll_factor=8):
        total += load_block(partial_ptr + split * TOTAL, ranks, ranks < ROWS, COLUMNS, columns, columns < COLUMNS)
    if TRANSPOSED:
        store_block(out_ptr, columns, columns < COLUMNS, ROWS, ranks, ranks < ROWS, tl.trans(total))
    else:
        store_block(out_ptr, ranks, ranks < ROWS, COLUMNS, columns, columns < COLUMNS, total)


@triton.jit(do_not_specialize=["splits"])
def weights_kernel(
    partial_ptr, outs, splits, FIRST_BLOCKS: tl.constexpr, PLACES: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr, TOTAL: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """``outs[i]`` of one group: the matrix (ROWS[i], COLUMNS[i]) at PLACES[i] of the sums, or its transpose."""
    group = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0)
    partial_ptr += group * splits * TOTAL
    for i in tl.static_range(len(outs)):
        if block >= FIRST_BLOCKS[i] and block < FIRST_BLOCKS[i + 1]:
            _add_shares(
                partial_ptr + PLACES[i], outs[i] + group * (ROWS[i] * COLUMNS[i]), block - FIRST_BLOCKS[i], splits,
                ROWS[i], COLUMNS[i], TOTAL, TRANSPOSED[i], BLOCK_C, BLOCK_R,
            )  # fmt: skip
