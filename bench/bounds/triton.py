"""Every launch of the Triton kernels in bfloat16, with one set of weights and the norm behind the adapter.

Grids and block sizes are those of the launches themselves, recorded; what a program moves is counted from ``kernels/``.
"""

import math
from collections.abc import Callable

from bench.bounds.launches import (
    CONDITION,
    EMBEDDING,
    HALF,
    NETWORK,
    SINGLE,
    Call,
    Launch,
    Model,
    copy,
    frozen,
    frozen_backward,
)
from bench.bounds.recorded import Recorded, recorded

Formula = Callable[[Model, int, Recorded, bool], Launch]  # the last: whether it is of a backward


def calls(model: Model, tokens: int) -> list[Call]:
    """Every operator that reads tokens, at ``tokens``."""
    row = HALF * tokens * model.hidden
    floors = {
        "adapter forward": copy(2 * row),
        "adapter backward": copy(3 * row),
        "lora_linears forward": frozen(model, tokens),
        "lora_linears backward": frozen_backward(model, tokens),
    }
    own = recorded(model, tokens)
    return [
        Call("triton", name, model.name, tokens,
             (*(floor if "lora" in name else ()), *_launches(model, tokens, name, own[name])), floor)
        for name, floor in floors.items()
    ]  # fmt: skip


def calls_without_tokens(model: Model) -> list[Call]:
    """Generation of the adapters of a stack from float32 parameters, and its conditions."""
    parameters, results, network = _parameters(model), HALF * sum(model.heads) * model.rows, _network(model)
    floors = {
        "generate forward": copy(parameters + results),
        "generate backward": copy(2 * parameters + results),
        "condition forward": copy(network),
        "condition backward": copy(2 * network),
    }
    own = recorded(model, 1)
    return [Call("triton", name, model.name, 0, _launches(model, 0, name, own[name]), floor)
            for name, floor in floors.items()]  # fmt: skip


def _launches(model: Model, tokens: int, name: str, own: list[Recorded]) -> tuple[Launch, ...]:
    return tuple(FORMULAS[one.kernel](model, tokens, one, name.endswith("backward")) for one in own)


def _parameters(model: Model) -> float:
    return SINGLE * sum(model.heads) * (CONDITION + 1)


def _network(model: Model) -> float:
    """Bytes of the condition network's parameters and of the conditions of both kinds of sites."""
    return SINGLE * (NETWORK * (3 * EMBEDDING + 1) + CONDITION * (NETWORK + 3) + 2 * model.rows * CONDITION)


def _moments_bytes(at: Recorded) -> float:
    block = at.constants["BLOCK_B"]
    return SINGLE * (3 + block) * block


def _moments_parts(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    weight, width, own = HALF * model.hidden * model.bottleneck, at.constants["BLOCK_B"], at.constants["OWN"]
    parts, halves = _moments_bytes(at) * at.grid[0], at.grid[1]  # `halves`: programs that share the rows of G
    return Launch(
        at.kernel, at.programs, at.threads, memory=weight + parts,
        # `up` for its means and for the products; a program takes OWN rows of these, which it reads besides
        cache=2 * halves * (weight + HALF * model.hidden * (own + 1)) + parts,
        tensor=3 * 2.0 * model.hidden * width * width,  # a float32 number in three parts
        lanes=halves * model.hidden * (width + own) * 3,
    )  # fmt: skip


def _moments_join(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    count, width = at.constants["PARTS"], at.constants["BLOCK_B"]
    parts = _moments_bytes(at) * count
    return Launch(
        at.kernel, at.programs, at.threads, memory=_moments_bytes(at), again=parts,
        cache=parts + at.programs * SINGLE * count * width + _moments_bytes(at),  # every program the means
        lanes=at.programs * count * width * 5,
    )  # fmt: skip


def _adapter(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    row, weight = HALF * tokens * model.hidden, HALF * model.hidden * model.bottleneck
    vectors = HALF * model.hidden * 3
    pre, width = SINGLE * tokens * model.bottleneck, at.constants["BLOCK_B"]
    moments = any("moments" in one.kernel for one in recorded(model, tokens)["adapter forward"])
    reads = 2 if at.constants["HELD"] else 3  # of a row: x once or twice, y
    # `down` and `up`; without moments `up` once more, for the statistics written out
    weights = 2 * weight + vectors + (_moments_bytes(at) if moments else weight + HALF * model.hidden)
    return Launch(
        at.kernel, at.programs, at.threads,
        memory=2 * row + pre + (weight if moments else 2 * weight), again=weight if moments else 0.0,
        cache=reads * row + pre + at.programs * weights,
        tensor=(2 if moments else 3) * 2.0 * at.programs * at.constants["BLOCK_T"] * model.hidden * width,
        lanes=tokens * model.hidden * (7 if moments else 15) + tokens * width * 40,
    )  # fmt: skip


def _adapter_walk(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    row, weight = HALF * tokens * model.hidden, HALF * model.hidden * model.bottleneck
    pre, height, vectors = SINGLE * tokens * model.bottleneck, at.constants["BLOCK_T"], HALF * model.hidden * 3
    tiles, width = math.ceil(tokens / height), at.constants["BLOCK_B"]
    return Launch(
        at.kernel, at.programs, at.threads,
        memory=2 * row + pre + 2 * weight + vectors, cache=2 * row + pre + at.programs * 2 * weight + tiles * vectors,
        tensor=2 * 2.0 * tiles * height * model.hidden * width, lanes=tokens * model.hidden * 9 + tokens * width * 40,
        tiles=tiles,
    )  # fmt: skip


def _adapter_tokens(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    row, weight = HALF * tokens * model.hidden, HALF * model.hidden * model.bottleneck
    pre, width = SINGLE * tokens * model.bottleneck, at.constants["BLOCK_B"]
    reads = 2 if width <= 32 else 3  # of `pre`: for the norm, in steps where it is wide, and for its slope
    units, vectors = HALF * 3 * at.constants["SECTION"] * tokens, HALF * model.hidden * 2
    return Launch(
        at.kernel, at.programs, at.threads,
        memory=2 * row + pre + units + weight, again=weight,  # g, ∂x; `up` was read for its moments
        # g for the sums and for the residual; `up` and `down` once
        cache=3 * row + reads * pre + units + at.programs * (2 * weight + vectors + _moments_bytes(at)),
        tensor=2 * 2.0 * at.programs * at.constants["BLOCK_T"] * model.hidden * width,
        lanes=tokens * model.hidden * (6 + 3) + tokens * width * 60,
    )  # fmt: skip


def _sums(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    """All lefts once, every right once for each block of its left's columns; the parts."""
    columns, widths, first = (at.constants[name] for name in ("COLUMNS", "WIDTHS", "FIRST_BLOCKS"))
    splits = at.grid[1]
    lefts = HALF * tokens * sum(columns)
    rights = HALF * tokens * sum(w * (first[i + 1] - first[i]) for i, w in enumerate(widths))
    parts = SINGLE * splits * at.constants["TOTAL"]
    x = HALF * tokens * model.hidden  # the one left that no launch before has read
    adapter = len(set(columns)) > 1
    return Launch(
        at.kernel, at.programs, at.threads,
        memory=parts + (x if adapter else 0),
        again=lefts - (x if adapter else 0) + HALF * tokens * sum(widths),
        cache=lefts + rights + parts,
        tensor=2.0 * tokens * at.constants["BLOCK_W"] * at.constants["BLOCK_C"] * first[-1],
        lanes=2.0 * tokens * sum(columns),  # the sums of the columns
    )  # fmt: skip


def _adapter_weights(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    parts, block = SINGLE * at.constants["TOTAL"] * _splits_of(model, tokens), at.constants["BLOCK_B"]
    weight, few = HALF * model.hidden * model.bottleneck, SINGLE * (model.bottleneck + 1) ** 2
    return Launch(
        at.kernel, at.programs, at.threads, memory=2 * weight, again=parts,
        # programs of the same columns: all read them of `up`, one what is summed of g along all units once more; the
        # few sums that all columns need are read once for each block of them
        cache=parts + (2 + at.grid[1]) * weight + (2 * weight + at.grid[0] * few) * _splits_of(model, tokens),
        lanes=parts / SINGLE * 2 + 3.0 * model.hidden * block * block,
    )  # fmt: skip


def _splits_of(model: Model, tokens: int) -> int:
    sums = [one for one in recorded(model, tokens)["adapter backward"] if one.kernel.startswith("sums")]
    return sums[0].grid[1]


def _lora(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    row, results, width = HALF * tokens * model.hidden, HALF * tokens * sum(model.outs), at.constants["BLOCK_R"]
    features = model.hidden + sum(model.outs)
    return Launch(
        at.kernel, at.programs, at.threads,
        memory=_factors(model),
        again=row + 2 * results,  # x, and the frozen products read and written
        cache=row + 2 * results + at.programs * _factors(model),
        tensor=2.0 * at.programs * at.constants["BLOCK_T"] * width * features,
        lanes=3.0 * tokens * sum(model.outs) + at.programs * width * (model.hidden + features),  # A is packed
    )  # fmt: skip


def _factors(model: Model) -> float:
    """Bytes of all A and B."""
    return HALF * model.rank * (len(model.outs) * model.hidden + sum(model.outs))


def _lora_tokens(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    row, grads, width = HALF * tokens * model.hidden, HALF * tokens * sum(model.outs), at.constants["BLOCK_R"]
    tiles, sums = math.ceil(tokens / at.constants["BLOCK_T"]), SINGLE * at.constants["TOTAL"]
    A, features = HALF * model.rank * len(model.outs) * model.hidden, model.hidden + sum(model.outs)
    return Launch(
        at.kernel, at.programs, at.threads,
        memory=row + at.programs * sums + _factors(model),  # x, which the frozen products do not read; the parts
        again=grads + 2 * row,  # the gradients; ∂x read and written
        # x for the shrink and for the sums; A for the shrink and for ∂x; a program's sums are written by each tile, and
        # read by all but its first
        cache=4 * row + grads + tiles * (A + _factors(model)) + (2 * tiles - min(tiles, at.programs)) * sums,
        tensor=2 * 2.0 * tiles * at.constants["BLOCK_T"] * width * features,
        lanes=3.0 * tokens * model.hidden + tiles * width * (2 * model.hidden + features),
        tiles=tiles,
    )  # fmt: skip


def _lora_weights(model: Model, tokens: int, at: Recorded, _: bool) -> Launch:
    first = recorded(model, tokens)["lora_linears backward"][0]
    parts = SINGLE * at.constants["TOTAL"] * first.programs
    return Launch(at.kernel, at.programs, at.threads, memory=_factors(model), again=parts,
                  cache=parts + _factors(model), lanes=2 * parts / SINGLE)  # fmt: skip


def _lane_products(results: float, terms: float) -> float:
    """float32 is multiplied outside the tensor cores; operands come through shared memory, as wide as the tile."""
    return results * terms * 1.5


def _generate(model: Model, _: int, at: Recorded, backward: bool) -> Launch:
    outputs, tall = sum(model.heads), at.grid[1]
    results = HALF * outputs * model.rows
    rows, columns = at.constants["BLOCK_T"], at.constants["BLOCK_N"]
    return Launch(
        at.kernel, at.programs, at.threads,
        memory=_parameters(model) + results,
        cache=tall * _parameters(model) + results + at.programs * SINGLE * rows * CONDITION,
        lanes=_lane_products(at.programs * rows * columns, CONDITION) + 4.0 * outputs * model.rows,
    )  # fmt: skip


def _generate_backward(model: Model, _: int, at: Recorded, backward: bool) -> Launch:
    outputs, (tall, shares, halves) = sum(model.heads), at.grid
    grads, parts = HALF * outputs * model.rows, SINGLE * shares * model.rows * CONDITION
    blocks, deep = at.constants["FIRST_BLOCKS"][-1], tall * at.constants["BLOCK_T"]
    return Launch(
        at.kernel, at.programs, at.threads,
        memory=grads + 2 * _parameters(model) + parts,
        # gradients for either product, parameters for each tile of rows, conditions in each block
        cache=2 * halves * grads + (tall + 1) * _parameters(model) + parts + blocks * SINGLE * model.rows * CONDITION,
        lanes=2 * _lane_products(blocks * at.constants["BLOCK_N"] * CONDITION, deep) + 2.0 * outputs * model.rows,
        tiles=blocks * tall * halves,
    )  # fmt: skip


def _generate_shares(model: Model, _: int, at: Recorded, backward: bool) -> Launch:
    shares = recorded(model, 1)["generate backward"][0].grid[1]
    parts, rows = SINGLE * shares * model.rows * CONDITION, SINGLE * model.rows * CONDITION
    return Launch(at.kernel, at.programs, at.threads, memory=rows, again=parts, cache=parts + rows,
                  lanes=2 * parts / SINGLE)  # fmt: skip


def _condition_rows(model: Model, _: int, at: Recorded, backward: bool) -> Launch:
    linears = NETWORK * 3 * EMBEDDING + CONDITION * NETWORK
    kept = SINGLE * 2 * model.rows * (NETWORK + 2 * CONDITION) if backward else 0
    return Launch(
        at.kernel, at.programs, at.threads, memory=_network(model) + kept,
        cache=_network(model) + kept + (at.programs - 1) * SINGLE * linears,
        lanes=_lane_products(at.programs * at.constants["BLOCK_T"], linears),
    )  # fmt: skip


def _condition_parameters(model: Model, _: int, at: Recorded, backward: bool) -> Launch:
    rows = 2 * model.rows
    kept, numbers = SINGLE * rows * (NETWORK + 2 * CONDITION), SINGLE * NETWORK * (3 * EMBEDDING + CONDITION)
    blocks = math.ceil(NETWORK / at.constants["BLOCK_U"])
    embeddings = at.programs - blocks - 1  # programs that go through all hidden units of all rows again
    gradient = rows * NETWORK * CONDITION  # products of the gradient of the hidden units
    return Launch(
        at.kernel, at.programs, at.threads, memory=numbers, again=kept,
        cache=numbers + (1 + embeddings) * kept + blocks * SINGLE * rows * CONDITION,
        lanes=_lane_products(1 + embeddings, gradient) + _lane_products(rows, NETWORK * (3 * EMBEDDING + CONDITION)),
    )  # fmt: skip


FORMULAS: dict[str, Formula] = {
    "adapter_moments.parts_kernel": _moments_parts,
    "adapter_moments.join_kernel": _moments_join,
    "adapter_forward.forward_kernel": _adapter,
    "adapter_walk.walk_kernel": _adapter_walk,
    "adapter_backward.tokens_kernel": _adapter_tokens,
    "adapter_backward.weights_kernel": _adapter_weights,
    "sums._sums_kernel": _sums,
    "lora_linear.forward_kernel": _lora,
    "lora_linear.tokens_kernel": _lora_tokens,
    "lora_linear.weights_kernel": _lora_weights,
    "generate.forward_kernel": _generate,
    "generate.backward_kernel": _generate_backward,
    "generate.shares_kernel": _generate_shares,
    "condition.rows_kernel": _condition_rows,
    "condition.parameters_kernel": _condition_parameters,
}
