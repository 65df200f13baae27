"""What a launch moves and computes, and the least time that it and a call of several launches take."""

import math
from dataclasses import dataclass, replace

from bench.bounds.device import Gpu

TOKENS = (16384, 4096, 64, 8)  # two batches of training; decoding steps of 64 and of 8 sentences
CONDITION, EMBEDDING, NETWORK = 64, 64, 128  # numbers of a condition and an embedding; hidden units between
HALF, SINGLE = 2, 4  # bytes of a bfloat16 and of a float32


@dataclass(frozen=True)
class Model:
    """Sizes of a backbone's sites: adapters with a norm behind them, LoRA at query and value."""

    name: str
    hidden: int
    bottleneck: int
    layers: int
    outs: tuple[int, ...]  # features of the projections with LoRA that read one x
    rank: int = 8

    @property
    def rows(self) -> int:
        """Conditions of the adapters of one stack, two sites a layer; LoRA has as many."""
        return 2 * self.layers

    @property
    def heads(self) -> tuple[int, ...]:
        """Outputs of the weight heads of an adapter: down, its bias, up, its bias, the norm's weight and bias."""
        product = self.hidden * self.bottleneck
        return product, self.bottleneck, product, self.hidden, self.hidden, self.hidden


MODELS = (
    Model("t5-base", 768, 24, 12, (768, 768)),
    Model("MiniLM", 384, 12, 6, (384, 384)),
    Model("1B decoder", 2048, 64, 16, (2048, 512)),  # value has fewer heads than query
    Model("7B decoder", 4096, 128, 32, (4096, 4096)),
)


@dataclass(frozen=True)
class Launch:
    """One kernel of a call. Bytes are those of all blocks together.

    ``memory`` counts what the call reads or writes for the first time, once; ``again`` what an earlier launch of the
    call read or wrote, which comes from memory only if the call does not fit the second cache, and ``recent`` the same
    of the launch right before, of which the two must not fit; ``cache`` everything that blocks read and write, as often
    as they do, whether the first cache would have kept it or not.
    """

    kernel: str
    blocks: int
    threads: int
    memory: float = 0.0
    again: float = 0.0
    recent: float = 0.0
    cache: float = 0.0
    tensor: float = 0.0  # operations of the tensor cores
    lanes: float = 0.0  # instructions of the float32 units
    shared: float = 0.0  # bytes from and to shared memory
    dynamic_shared: int = 0  # bytes of a block, beside those that are compiled in
    tiles: int = 0  # equal pieces of the work, where blocks take several

    @property
    def footprint(self) -> float:
        """Bytes that the launch touches, each once."""
        return self.memory + self.again + self.recent

    def seconds(self, gpu: Gpu, missed: float = 0.0) -> dict[str, float]:
        """The least time by each resource; ``missed`` bytes that were touched before come from memory.

        A block stays on one multiprocessor, so the busiest one counts.
        """
        tiles = self.tiles or self.blocks
        at_once = math.ceil(self.blocks / gpu.processors)
        busiest = min(1.0, math.ceil(tiles / self.blocks) * at_once / tiles)
        share = busiest * gpu.processors
        return {
            "memory": (self.memory + missed) / gpu.memory,
            "second cache": max(self.cache / gpu.cache, busiest * self.cache / gpu.cache_of_processor),
            "tensor cores": share * self.tensor / gpu.tensor,
            "lanes": share * self.lanes / gpu.lanes,
            "shared memory": share * self.shared / gpu.shared,
        }


@dataclass(frozen=True)
class Call:
    """One call of an operator. ``floor`` is what it is held against: a copy, or the frozen products alone."""

    backend: str
    operator: str
    model: str
    tokens: int  # 0 where none are read
    launches: tuple[Launch, ...]
    floor: tuple[Launch, ...]

    def seconds(self, gpu: Gpu) -> float:
        """The bound: every launch's scarcest resource, and the launches themselves."""
        return total(self.launches, gpu)


def missed(launches: tuple[Launch, ...], gpu: Gpu) -> list[float]:
    """Bytes of every launch that were touched before and are no more in the second cache."""
    fits = sum(launch.memory for launch in launches) <= gpu.cache_bytes
    found, before = [], 0.0
    for launch in launches:
        recent = 0.0 if before + launch.memory <= gpu.cache_bytes else launch.recent
        found.append(recent + (0.0 if fits else launch.again))
        before = launch.footprint
    return found


def total(launches: tuple[Launch, ...], gpu: Gpu) -> float:
    """The least seconds of launches one after the other."""
    several = zip(launches, missed(launches, gpu), strict=True)
    return sum(gpu.launch + max(launch.seconds(gpu, bytes_missed).values()) for launch, bytes_missed in several)


def copy(bytes_moved: float) -> tuple[Launch, ...]:
    """A copy that reads and writes so many bytes together, spread over the whole device."""
    return (Launch("copy", 1 << 16, 256, memory=bytes_moved, cache=bytes_moved),)


def frozen(model: Model, tokens: int) -> tuple[Launch, ...]:
    """The frozen products forward, all of one x."""
    row = HALF * tokens * model.hidden
    return tuple(_product(tokens, out, model.hidden, again=row if i else 0) for i, out in enumerate(model.outs))


def frozen_backward(model: Model, tokens: int) -> tuple[Launch, ...]:
    """Their gradient of x, one product added to the other; a frozen weight has none."""
    return tuple(_product(tokens, model.hidden, out, added=i > 0) for i, out in enumerate(model.outs))


def added_product(tokens: int, columns: int, terms: int, again: float | None = None) -> Launch:
    """A product of the library's that is added to what the launch right before has written; its tokens are read again.

    ``again``: the bytes of those tokens.
    """
    row, result = HALF * tokens * terms, HALF * tokens * columns
    found = _product(tokens, columns, terms)
    again = row if again is None else again
    return replace(found, memory=HALF * terms * columns, again=again, recent=2 * result, cache=found.cache + result)


def _product(tokens: int, columns: int, terms: int, again: float = 0.0, added: bool = False) -> Launch:
    """A product of the library's in half precision: operands once, the result once, twice if it is added to."""
    result = HALF * tokens * columns
    moved = HALF * (tokens * terms + terms * columns) + (2 if added else 1) * result
    kept = again + (2 * result if added else 0)  # of `moved`, what is there from before
    blocks = max(math.ceil(tokens / 128) * math.ceil(columns / 128), 132)  # sums are split to fill the device
    return Launch(
        "cuBLAS", blocks, 256, memory=moved - kept, again=kept, cache=moved, tensor=2.0 * tokens * columns * terms
    )


def up(number: int, step: int) -> int:
    """``number`` rounded up to whole steps."""
    return math.ceil(number / step) * step
