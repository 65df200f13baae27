"""Sums over the tokens of a group: ``left ᵀ right`` of tall matrices, in two passes so that they repeat bit for bit.

The first pass, here, writes the sums of a share of the tokens; the operator's last kernel adds the shares in order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperloader.kernels import _launch
from hyperloader.kernels._launch import Architecture, Tokens, padded
from hyperloader.kernels._math import load_block
from hyperloader.kernels._tokens import SENTENCES, members_of

_PROGRAMS = 2  # a processor


class Product(NamedTuple):
    """``rightᵀ · left``, and the sums of ``left``'s columns: in the sums a matrix (width + 1, columns), these last."""

    left: Tensor  # (tokens, columns), rows contiguous; so is the next
    right: Tensor  # (tokens, width)

    @property
    def size(self) -> int:
        return (self.right.shape[1] + 1) * self.left.shape[1]


@triton.jit
def _product(
    left_ptr, right_ptr, moments_ptr, order_ptr, out_ptr, block, begin, count, length, splits,
    LEFT_STRIDE: tl.constexpr, COLUMNS: tl.constexpr, RIGHT_STRIDE: tl.constexpr, WIDTH: tl.constexpr,
    NORMALISED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    columns = block * BLOCK_C + tl.arange(0, BLOCK_C)
    widths = tl.arange(0, BLOCK_W)
    product = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    total = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(tl.program_id(1) * BLOCK_T, count, splits * BLOCK_T):
        tokens = start + tl.arange(0, BLOCK_T)
        in_rows = tokens < count
        rows = tokens.to(tl.int64)
        if order_ptr is not None:
            sentence = tl.load(order_ptr + begin + tokens // length, mask=in_rows, other=0)
            rows = sentence.to(tl.int64) * length + tokens % length
        left = load_block(left_ptr, rows, in_rows, LEFT_STRIDE, columns, columns < COLUMNS)
        right = load_block(right_ptr, rows, in_rows, RIGHT_STRIDE, widths, widths < WIDTH)
        total += tl.sum(left.to(tl.float32), 0)
        if NORMALISED:
            mean = tl.load(moments_ptr + rows * 2, mask=in_rows, other=0.0)
            rstd = tl.load(moments_ptr + rows * 2 + 1, mask=in_rows, other=0.0)
            left = ((left.to(tl.float32) - mean[:, None]) * rstd[:, None]).to(left_ptr.dtype.element_ty)
        product = tl.dot(tl.trans(right.to(left.dtype)), left, product, input_precision=PRECISION)
    tl.store(
        out_ptr + widths[:, None] * COLUMNS + columns[None, :],
        product,
        mask=(widths < WIDTH)[:, None] & (columns < COLUMNS)[None, :],
    )
    tl.store(out_ptr + WIDTH * COLUMNS + columns, total, mask=columns < COLUMNS)


@triton.jit(do_not_specialize=["count", "length", "groups", "sentences", "splits"])
def _sums_kernel(
    lefts, rights, moments_ptr, group_ptr, order_ptr, partial_ptr, count, length, groups, sentences, splits,
    FIRST_BLOCKS: tl.constexpr, PLACES: tl.constexpr, LEFT_STRIDES: tl.constexpr, COLUMNS: tl.constexpr,
    RIGHT_STRIDES: tl.constexpr, WIDTHS: tl.constexpr, NORMALISED: tl.constexpr, PRECISION: tl.constexpr,
    TOTAL: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(2)
    begin = 0
    if group_ptr is not None:
        begin, members = members_of(group_ptr, group, groups, sentences, BLOCK_S)
        count = members * length
    partial_ptr += (group.to(tl.int64) * splits + tl.program_id(1)) * TOTAL
    block = tl.program_id(0)
    for i in tl.static_range(len(lefts)):
        if block >= FIRST_BLOCKS[i] and block < FIRST_BLOCKS[i + 1]:
            _product(
                lefts[i], rights[i], moments_ptr, order_ptr, partial_ptr + PLACES[i],
                block - FIRST_BLOCKS[i], begin, count, length, splits, LEFT_STRIDES[i], COLUMNS[i], RIGHT_STRIDES[i],
                WIDTHS[i], i == NORMALISED, PRECISION, BLOCK_T, BLOCK_C, BLOCK_W,
            )  # fmt: skip


def sums(
    products: Sequence[Product],
    tokens: Tokens,
    order: Tensor | None,
    architecture: Architecture,
    moments: Tensor | None = None,
    normalised: int = -1,
) -> Tensor:
    """Return the sums of shares of the tokens, (groups, shares, numbers of all ``products``), float32.

    ``order`` (sentences,) int32 holds the sentences by group. The left of product ``normalised`` is standardised with
    ``moments`` (tokens, 2).
    """
    left, width = products[0].left, padded(max(product.right.shape[1] for product in products))
    blocks = _launch.sums_blocks(left.dtype, width, architecture)
    first_blocks, places = [0], [0]
    for product in products:
        first_blocks.append(first_blocks[-1] + triton.cdiv(product.left.shape[1], blocks.columns))
        places.append(places[-1] + product.size)
    most = triton.cdiv(_PROGRAMS * architecture.processors, first_blocks[-1] * tokens.groups)
    splits = max(1, min(most, triton.cdiv(tokens.count, blocks.tokens)))
    partial = torch.empty(tokens.groups, splits, places[-1], dtype=torch.float32, device=left.device)
    _launch.launch(
        _sums_kernel, (first_blocks[-1], splits, tokens.groups),
        tuple(product.left for product in products), tuple(product.right for product in products), moments,
        tokens.group, order, partial, tokens.count, tokens.length, tokens.groups, tokens.sentences, splits,
        FIRST_BLOCKS=tuple(first_blocks), PLACES=tuple(places[:-1]),
        LEFT_STRIDES=tuple(product.left.stride(0) for product in products),
        COLUMNS=tuple(product.left.shape[1] for product in products),
        RIGHT_STRIDES=tuple(product.right.stride(0) for product in products),
        WIDTHS=tuple(product.right.shape[1] for product in products), NORMALISED=normalised, TOTAL=places[-1],
        # beside half-precision tokens, the few numbers a token that are float32 need no more than tensor cores keep
        PRECISION="ieee" if left.dtype == torch.float32 else "tf32", BLOCK_T=blocks.tokens, BLOCK_C=blocks.columns,
        BLOCK_W=width, BLOCK_S=SENTENCES,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    return partial
