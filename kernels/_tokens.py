"""Which tokens a program computes, and whose weights it uses."""

import triton
import triton.language as tl

SENTENCES = 128  # whose groups are looked at in one step


@triton.jit
def group_of(group_ptr, sentences, groups, in_sentences):
    """Groups of ``sentences``; an index out of range is clamped, for it was not looked at on the device."""
    group = tl.load(group_ptr + sentences, mask=in_sentences, other=0)
    return tl.minimum(tl.maximum(group, 0), groups - 1)


@triton.jit
def tile_of(group_ptr, length, groups, BLOCK_T: tl.constexpr):
    """Rows [BLOCK_T] of this program, whether each of them exists, and their one group."""
    tile = tl.program_id(0)
    group = tl.zeros((), tl.int64)
    sentence = group
    if group_ptr is not None:
        tiles = tl.cdiv(length, BLOCK_T)
        sentence += tile // tiles
        tile = tile % tiles
        group = group_of(group_ptr, sentence, groups, True)
    tokens = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    return sentence * length + tokens, tokens < length, group


@triton.jit
def place_sentence(group_ptr, order_ptr, length, groups, sentences, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """Write this program's sentence to its place in ``order``: by group, then by index.

    The first program of every sentence does so, by counting those before it.
    """
    tiles = tl.cdiv(length, BLOCK_T)
    sentence = tl.program_id(0) // tiles
    if tl.program_id(0) % tiles == 0:
        own = group_of(group_ptr, sentence, groups, True)
        before = tl.zeros((BLOCK_S,), tl.int32)
        for start in range(0, sentences, BLOCK_S):
            others = start + tl.arange(0, BLOCK_S)
            there = others < sentences
            group = group_of(group_ptr, others, groups, there)
            before += (there & ((group < own) | ((group == own) & (others < sentence)))).to(tl.int32)
        tl.store(order_ptr + tl.sum(before, 0), sentence)


@triton.jit(do_not_specialize=["groups", "sentences"])
def order_kernel(group_ptr, order_ptr, groups, sentences, BLOCK_S: tl.constexpr):
    """Write the sentences (sentences,) by group, then by index."""
    place_sentence(group_ptr, order_ptr, 1, groups, sentences, 1, BLOCK_S)


@triton.jit
def members_of(group_ptr, own, groups, sentences, BLOCK_S: tl.constexpr):
    """Where group ``own`` begins in ``order``, and its number of sentences."""
    before = tl.zeros((BLOCK_S,), tl.int32)
    members = tl.zeros((BLOCK_S,), tl.int32)
    for start in range(0, sentences, BLOCK_S):
        others = start + tl.arange(0, BLOCK_S)
        there = others < sentences
        group = group_of(group_ptr, others, groups, there)
        before += (there & (group < own)).to(tl.int32)
        members += (there & (group == own)).to(tl.int32)
    return tl.sum(before, 0), tl.sum(members, 0)
