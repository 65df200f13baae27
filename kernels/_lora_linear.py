"""The low-rank part of LoRA linears of one ``x``, packed: the ranks of all projections are the columns of one product.

A program holds BLOCK_T tokens of one group, and their ``x · lora_Aᵀ``. The frozen products are not made here.
"""

import triton
import triton.language as tl

from hyperloader.kernels._math import load_block, store_block
from hyperloader.kernels._tokens import place_sentence, tile_of


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
):  # fmt: skip
    """``ys[i] += scaling · (x · lora_A[i]ᵀ) · lora_B[i]ᵀ``."""
    rows, in_rows, group = tile_of(group_ptr, length, groups, BLOCK_T)
    shrunk = _shrink(x_ptr, lora_A, rows, in_rows, group, RANKS, FIRSTS, IN, DOT, PRECISION, BLOCK_T, BLOCK_K, BLOCK_R)
    shrunk = (scaling * shrunk).to(DOT)
    for i in tl.static_range(len(ys)):
        for start in range(0, OUTS[i], BLOCK_K):
            columns = start + tl.arange(0, BLOCK_K)
            in_columns = columns < OUTS[i]
            up = _load_B(lora_B[i], group, columns, RANKS[i], FIRSTS[i], OUTS[i], BLOCK_R).to(DOT)
            y = load_block(ys[i], rows, in_rows, OUTS[i], columns, in_columns).to(tl.float32)
            y = tl.dot(shrunk, tl.trans(up), y, input_precision=PRECISION)
            store_block(ys[i], rows, in_rows, OUTS[i], columns, in_columns, y)


@triton.jit(do_not_specialize=["length", "groups", "sentences"])
def tokens_kernel(
    grads, x_ptr, lora_A, lora_B, group_ptr, grad_x_ptr, units_ptr, order_ptr, length, groups, sentences, scaling,
    RANKS: tl.constexpr, FIRSTS: tl.constexpr, IN: tl.constexpr, OUTS: tl.constexpr, SECTION: tl.constexpr,
    NEEDS_B: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Add the update's part to ``grad_x`` (None where it is not wanted), and write what the sums over tokens need.

    ``units`` has two sections of SECTION numbers a token: scaling · Σ grads[i] · lora_B[i], the gradient of
    ``x · lora_Aᵀ``; and with NEEDS_B scaling · ``x · lora_Aᵀ``. ``units_ptr`` is None where no sum is wanted.
    """
    rows, in_rows, group = tile_of(group_ptr, length, groups, BLOCK_T)
    if order_ptr is not None:
        place_sentence(group_ptr, order_ptr, length, groups, sentences, BLOCK_T, BLOCK_S)
    ranks = tl.arange(0, BLOCK_R)
    if NEEDS_B:
        shrunk = _shrink(
            x_ptr, lora_A, rows, in_rows, group, RANKS, FIRSTS, IN, DOT, PRECISION, BLOCK_T, BLOCK_K, BLOCK_R
        )
        store_block(units_ptr + SECTION, rows, in_rows, 2 * SECTION, ranks, ranks < SECTION, scaling * shrunk)

    grad_shrunk = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
    for i in tl.static_range(len(grads)):
        for start in range(0, OUTS[i], BLOCK_K):
            columns = start + tl.arange(0, BLOCK_K)
            grad = load_block(grads[i], rows, in_rows, OUTS[i], columns, columns < OUTS[i]).to(DOT)
            up = _load_B(lora_B[i], group, columns, RANKS[i], FIRSTS[i], OUTS[i], BLOCK_R).to(DOT)
            grad_shrunk = tl.dot(grad, up, grad_shrunk, input_precision=PRECISION)
    grad_shrunk *= scaling
    if units_ptr is not None:
        store_block(units_ptr, rows, in_rows, 2 * SECTION, ranks, ranks < SECTION, grad_shrunk)
    if grad_x_ptr is not None:
        for start in range(0, IN, BLOCK_K):
            columns = start + tl.arange(0, BLOCK_K)
            packed = _load_A(lora_A, group, columns, RANKS, FIRSTS, IN, DOT, BLOCK_R, BLOCK_K)
            grad_x = load_block(grad_x_ptr, rows, in_rows, IN, columns, columns < IN).to(tl.float32)
            grad_x = tl.dot(grad_shrunk.to(DOT), packed, grad_x, input_precision=PRECISION)
            store_block(grad_x_ptr, rows, in_rows, IN, columns, columns < IN, grad_x)


@triton.jit
def _add_shares(
    partial_ptr, out_ptr, block, splits, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TOTAL: tl.constexpr,
    TRANSPOSED: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    columns = block * BLOCK_C + tl.arange(0, BLOCK_C)
    ranks = tl.arange(0, BLOCK_R)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for split in range(splits):
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
