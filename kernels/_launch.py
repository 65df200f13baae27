"""From shapes and architecture to launches: layouts, block sizes and limits.

Block sizes are plain functions of a layer's sizes, its dtype and the architecture. The number of tokens decides how
many programs run, never what is compiled.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
MAX_WIDTH = 128  # bottleneck units, ranks of all linears, or numbers of a condition, that a program holds


class Architecture(NamedTuple):
    """What block sizes depend on."""

    vendor: str  # cuda, hip or cpu (the interpreter)
    processors: int
    shared: int = 227 << 10  # bytes of shared memory that a program may have


class Tokens(NamedTuple):
    """How the rows of ``x`` (count, hidden) belong to groups."""

    count: int  # type: ignore[assignment]  # the name of a method of tuples
    length: int  # of a sentence; without groups all tokens are one
    groups: int
    group: Tensor | None  # (sentences,)

    @property
    def sentences(self) -> int:
        return self.count // max(self.length, 1)

    def tiles(self, block: int) -> int:
        """Number of blocks of tokens when no block holds tokens of two sentences."""
        return self.sentences * triton.cdiv(self.length, block)


class Blocks(NamedTuple):
    """Tokens and columns of a tile, and how a program runs."""

    tokens: int
    columns: int
    num_warps: int
    num_stages: int
    held: bool = False  # in registers, all columns of a tile from their first use to their last
    programs: int = 0  # of a processor that walk over tiles with their weights; 0: a program a tile


@functools.cache
def architecture(device: torch.device) -> Architecture:
    """The architecture of ``device``; without a GPU the interpreter's, a few processors so that sums are split."""
    if device.type != "cuda":
        return Architecture("cpu", 4)
    vendor = "hip" if torch.version.hip else "cuda"
    index = torch.cuda.current_device() if device.index is None else device.index
    shared = triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]
    return Architecture(vendor, torch.cuda.get_device_properties(device).multi_processor_count, shared)


def _float32_blocks(num_warps: int, architecture: Architecture) -> Blocks:
    """Blocks of products without tensor cores, which hold operands in registers; the interpreter likes larger ones."""
    return Blocks(tokens=32, columns=64 if architecture.vendor == "cpu" else 32, num_warps=num_warps, num_stages=1)


def launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Launch ``kernel`` over ``grid`` on the current device."""
    kernel[grid](*arguments, **constants)


def tokens_of(x: Tensor, group: Tensor | None, groups: int) -> Tokens:
    """Layout of ``x`` (..., hidden), or (sentences, ..., hidden) with ``group``.

    Raises:
        IndexError: there are tokens and no weights.
    """
    count = x.shape[:-1].numel()
    if group is None:
        return Tokens(count, count, 1, None)
    if groups == 0 and count > 0:
        raise IndexError("group must be from 0 to -1: there are no weights")
    return Tokens(count, x.shape[1:-1].numel(), groups, group.contiguous())


def product_dtype(x: Tensor, *weights: Tensor) -> tuple[tl.dtype, str]:
    """The dtype and the precision that a program multiplies ``x`` with ``weights`` in.

    Half precision where all of them are. A half-precision ``x`` beside a float32 weight is exact in TF32.
    """
    if all(weight.dtype == x.dtype for weight in weights):
        return DTYPES[x.dtype], "ieee"
    return tl.float32, "ieee" if x.dtype == torch.float32 else "tf32"


def exact_precision(dot: tl.dtype, architecture: Architecture) -> str:
    """The precision of the few float32 products beside those of ``dot``: as good as float32's own.

    NVIDIA's tensor cores take a number in three parts; without them such a product needs more registers than there are.
    """
    return "tf32x3" if architecture.vendor == "cuda" and dot != tl.float32 else "ieee"


def all_registers(architecture: Architecture) -> dict[str, int]:
    """An option of a launch: a thread may use every register there is. NVIDIA's assembler keeps to fewer otherwise, for
    more programs at once, even where it has to spill some."""
    return {"maxnreg": 255} if architecture.vendor == "cuda" else {}


def scratch_dtype(x: Tensor) -> torch.dtype:
    """Dtype of the few numbers a token that one kernel writes for another; float16 would lose those that are small."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def padded(size: int) -> int:
    """``size`` as a dimension of a product: a power of two, at least 16."""
    return max(16, triton.next_power_of_2(size))


def check_dtype(operator: str, dtype: torch.dtype) -> None:
    """Raise TypeError where ``dtype`` is none of the kernels'."""
    if dtype not in DTYPES:
        raise TypeError(f"the Triton {operator} computes float32, float16 and bfloat16, got {dtype}")


def check_width(operator: str, what: str, width: int) -> None:
    """Raise ValueError where ``width`` is more than a program holds."""
    if width > MAX_WIDTH:
        raise ValueError(f"the Triton {operator} takes {what} up to {MAX_WIDTH}, got {width}")


def warps(block: int) -> int:
    """Warps of a program that holds several matrices ``block`` bottleneck units or ranks wide: enough for registers."""
    return 4 if block <= 32 else 8


@functools.cache
def adapter_blocks(dot: tl.dtype, hidden: int, bottleneck: int, held: bool, architecture: Architecture) -> Blocks:
    """Blocks of the adapter's kernels over tokens of ``hidden`` numbers, which are ``held`` where they can be.

    A tile in registers is read once, and small enough for several programs a processor: while one waits for memory
    another multiplies. Elsewhere many tokens share what is read of the weights.
    """
    if dot == tl.float32:
        return _float32_blocks(warps(bottleneck), architecture)
    if held and hidden <= 1536:
        return Blocks(tokens=32, columns=128, num_warps=4 if hidden <= 768 else 8, num_stages=1, held=True)
    return Blocks(tokens=64, columns=32 if bottleneck <= 32 else 64, num_warps=warps(bottleneck), num_stages=3)


@functools.cache
def walk_blocks(dot: tl.dtype, hidden: int, bottleneck: int, architecture: Architecture) -> Blocks | None:
    """Blocks of the adapter's forward whose programs keep their weights, or None where these do not fit.

    NVIDIA's lie in shared memory, AMD's in registers. ``v`` is in registers, which bounds the hidden units.
    """
    if dot == tl.float32 or bottleneck > 64 or hidden > (384 if bottleneck > 32 else 768):
        return None
    columns = 128 if hidden <= 640 else 256
    if architecture.vendor == "hip":
        programs = 2 if hidden <= 384 and bottleneck <= 16 else 1  # as registers allow
        return Blocks(tokens=16, columns=columns, num_warps=4, num_stages=2, programs=programs)
    room = walk_room(hidden, bottleneck, columns)
    if room > architecture.shared:
        return None
    small = hidden <= 384
    programs = 2 if small and (bottleneck <= 16 or 2 * room <= architecture.shared) else 1
    return Blocks(tokens=32, columns=columns, num_warps=4 if small else 8, num_stages=2, programs=programs)


def walk_room(hidden: int, bottleneck: int, columns: int) -> int:
    """Bytes of shared memory that such a program takes on NVIDIA, at most: both matrices, 32 tokens on their way, and
    32 x 256 half-precision results that are put in rows."""
    width = triton.cdiv(hidden, columns) * columns
    return 2 * (2 * width * bottleneck + 32 * width + 32 * 256)


@functools.cache
def sums_blocks(dtype: torch.dtype, width: int, architecture: Architecture) -> Blocks:
    """Blocks of the sums over tokens of ``width`` products; many tokens at once where these are on tensor cores."""
    if dtype == torch.float32:
        return Blocks(tokens=32, columns=64 if width <= 32 else 32, num_warps=4 if width <= 128 else 8, num_stages=2)
    if width <= 64:
        return Blocks(tokens=64, columns=128, num_warps=4, num_stages=3)
    return Blocks(tokens=64, columns=128, num_warps=8, num_stages=3 if width <= 128 else 2)


@functools.cache
def lora_blocks(dot: tl.dtype, features: int, ranks: int, architecture: Architecture) -> Blocks:
    """Blocks of the low-rank kernel over tokens, of ``features`` each: its steps wait for memory, so several are on
    their way. Few steps are unrolled, and more on their way take more registers than there are."""
    if dot == tl.float32:
        return _float32_blocks(4, architecture)
    return Blocks(tokens=32, columns=128, num_warps=4, num_stages=4 if features > 1024 and ranks <= 32 else 3)


@functools.cache
def lora_gradient_blocks(dot: tl.dtype, features: int, ranks: int, architecture: Architecture) -> Blocks:
    """Blocks of the low-rank kernel that sums as it goes, over ``features`` of x: the more tokens a tile, the
    fewer times sums are added to; the more columns, the fewer steps one after the other. Few steps would be unrolled,
    which takes more registers than there are."""
    if dot == tl.float32:
        return _float32_blocks(warps(ranks), architecture)
    columns = max(32, min(128 if features > 1024 else 64, 4096 // ranks))
    # A tile of one step is no loop: eight warps would make the first products twice, which the assembler of CUDA 12.8
    # (Triton 3.6 and 3.7 have it) compiles to addresses that were never computed.
    return Blocks(tokens=64, columns=columns, num_warps=8 if features > columns else 4, num_stages=3)


@functools.cache
def generate_blocks(dot: tl.dtype, architecture: Architecture) -> Blocks:
    """Blocks of rows and outputs of generation, whose products are 64 deep."""
    if dot == tl.float32:
        return _float32_blocks(8, architecture)
    return Blocks(tokens=32, columns=128, num_warps=4, num_stages=2)
