"""Seconds and peak bytes of a step, measured and computed."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from bench.measure import count_memory
from bench.scaling import FLOAT, T5, Scale
from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.optim import RowAdamW

BASE = Scale(
    T5(layers=2, hidden=256, attention=256, feed_forward=1024, vocabulary=1000, heads=4),
    HyperLoaderConfig(tasks=["any"], reduction_factor=8, init="scaled", base_weights=True, sparse_gradients=True),
    tasks=64,
    sentences=16,
    tokens=32,
    tasks_of_batch=8,
)


def wide(hidden: int) -> Scale:
    """``BASE`` in another width, with layers and attention that are wider alike."""
    return replace(BASE, backbone=replace(BASE.backbone, hidden=hidden, attention=hidden, feed_forward=4 * hidden))


# What differs from BASE -> its values and what they make of BASE, which is among them.
AXES: dict[str, dict[int, Scale]] = {
    "layers a stack": {many: replace(BASE, backbone=replace(BASE.backbone, layers=many)) for many in (1, 2, 4, 8)},
    "width": {many: wide(many) for many in (128, 256, 512, 1024)},
    "rank": {many: replace(BASE, config=replace(BASE.config, rank=many)) for many in (2, 8, 32, 128)},
    "sentences": {many: replace(BASE, sentences=many) for many in (8, 16, 32, 64)},
    "tasks in the batch": {many: replace(BASE, tasks_of_batch=many) for many in (1, 4, 8, 16)},
    "tasks": {many: replace(BASE, tasks=many) for many in (64, 1_000, 10_000)},
}


def measure(axes: Mapping[str, Mapping[int, Scale]], rounds: int) -> list[dict]:
    """A row for each value of each axis: median seconds of a step and its peak bytes, with one thread."""
    points = [(axis, value, scale) for axis, values in axes.items() for value, scale in values.items()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = [make(scale) for _, _, scale in points]
        for step in steps:  # the first one makes the optimizer's state
            step()
        taken: list[list[float]] = [[] for _ in steps]
        for _ in range(rounds):
            for step, seconds in zip(steps, taken, strict=True):
                began = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - began)
        peaks = [count_memory(step, torch.device("cpu")).peak for step in steps]
    finally:
        torch.set_num_threads(threads)
    return [
        {"axis": axis, "value": value, "median_s": statistics.median(seconds), "fastest_s": min(seconds), "peak": peak,
         "operations": scale.operations, "fixed": fixed_bytes(scale), "activations": activations(scale)}
        for (axis, value, scale), seconds, peak in zip(points, taken, peaks, strict=True)
    ]  # fmt: skip


def make(scale: Scale) -> Callable[[], None]:
    """A training step of a new model of that scale on one batch of random tokens."""
    model, batch = made(scale)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = RowAdamW(trained, lr=1e-6, fused=True)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def made(scale: Scale) -> tuple[HyperLoaderModel, dict[str, Tensor]]:
    """A new model of that scale and a batch of random tokens, of tasks that lie apart."""
    torch.manual_seed(0)
    sizes = scale.backbone
    backbone = T5ForConditionalGeneration(
        T5Config(
            num_layers=sizes.layers, d_model=sizes.hidden, d_kv=sizes.attention // sizes.heads, d_ff=sizes.feed_forward,
            num_heads=sizes.heads, vocab_size=sizes.vocabulary, dropout_rate=0.0, decoder_start_token_id=0,
        )
    )  # fmt: skip
    names = [f"task {number}" for number in range(scale.tasks)]
    model = HyperLoaderModel(backbone, replace(scale.config, tasks=names)).train()
    ids = torch.randint(1, sizes.vocabulary, (scale.sentences, scale.tokens))
    apart = scale.tasks // scale.tasks_of_batch
    of_sentence = torch.arange(scale.sentences) % scale.tasks_of_batch * apart
    return model, {"input_ids": ids, "labels": ids, "task_ids": of_sentence}


def fixed_bytes(scale: Scale) -> tuple[int, int]:
    """Bytes beside a step's activations in float32: when the forward has ended, the weights that it generated; when the
    backward has, these, their gradients and those of what is trained."""
    generated = FLOAT * scale.tasks_of_batch * scale.generated
    return generated, 2 * generated + scale.gradient_bytes


def activations(scale: Scale) -> int:
    """What the bytes of activations are proportional to: tokens, layers and width."""
    return scale.sentences * scale.tokens * scale.backbone.layers * scale.backbone.hidden


def peak(row: Mapping, bytes_of_one: float) -> float:
    """Computed peak of a row, given the bytes for one of its ``activations``."""
    after_forward, after_backward = row["fixed"]
    return max(after_forward + bytes_of_one * row["activations"], after_backward)


def computed(rows: Sequence[Mapping]) -> list[tuple[float, float]]:
    """Seconds and peak bytes of each row by the formulas, whose two constants, the rate of operations and the bytes of
    an activation, are those of ``BASE`` as it was measured: the medians over the axes."""
    base = [row for row in rows if row["operations"] == BASE.operations and row["fixed"] == list(fixed_bytes(BASE))]
    rate = BASE.operations / statistics.median(row["median_s"] for row in base)
    of_one = (statistics.median(row["peak"] for row in base) - base[0]["fixed"][0]) / base[0]["activations"]
    return [(row["operations"] / rate, peak(row, of_one)) for row in rows]
