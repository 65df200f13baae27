"""The budgets: what was aimed for, what was measured, whether it was met."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.case import BOTH, FORWARD
from bench.cases import captured, generate, lora_linear, mixed, predict, step
from bench.providers import PLAIN, PUBLISHED
from bench.results import Run, best_of_ours

Value = Callable[[Run], float | None]

_ADAPTER, _LORA = "4096 × 768, bottleneck 24", "4096 × 768 → 768, rank 8"
_GENERATE = "12 layers, hidden 768, 1 task"
_STEP, _SMALL_STEP = "MiniLM, 32 × 32 tokens", "MiniLM, 4 × 32 tokens"
_T5_STEP = "T5-base, 32 × 64 tokens"


@dataclass(frozen=True)
class Goal:
    """A bound: at least or at most ``bound``, in ``unit``."""

    bound: float
    at_least: bool = False
    unit: str = "×"

    def __str__(self):
        return f"{'≥' if self.at_least else '≤'} {self.show(self.bound)}"

    def show(self, value: float) -> str:
        """``value`` with as many digits as make sense."""
        if not self.unit:
            return f"{value:.0f}"
        return f"{value:.0f} %" if self.unit == "%" else f"{value:.2f}{self.unit}"

    def met(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Row:
    """One budget: its goal on the CPU and on a GPU, None where there is none, and how to read it off a run."""

    what: str
    cpu: Goal | None
    gpu: Goal | None
    value: Value

    def goal(self, device: str) -> Goal | None:
        """The goal on ``device``."""
        return self.cpu if device == "cpu" else self.gpu


def _against(
    case: str, point: str, name: str, other: str, key: str = "median_s", inverse: bool = False, suffix: str = ""
) -> Value:
    """Ours, the kind with ``suffix``, over ``other``; ``inverse`` for other over ours, "times faster"."""

    def value(run: Run) -> float | None:
        rows = run.providers(case, point, name)
        own = best_of_ours(rows, suffix)
        if own is None or other not in rows:
            return None
        return rows[other][key] / own[key] if inverse else own[key] / rows[other][key]

    return value


def _against_floor(case: str, point: str, name: str, what: str, rate: str) -> Value:
    """The time of ours over that of its operations or of its memory traffic at the rate of this run."""

    def value(run: Run) -> float | None:
        own = best_of_ours(run.providers(case, point, name))
        if own is None:
            return None
        return own["median_s"] * run.floor(case, point)[rate] / run.find(case, point, name)[what]

    return value


def _bandwidth(run: Run) -> float | None:
    over = _against_floor("adapter", "32768 × 768, bottleneck 24", FORWARD, "bytes", "bytes_per_s")(run)
    return None if over is None else 100 / over


def _operators(run: Run) -> float | None:
    own = best_of_ours(run.providers("generate", _GENERATE, BOTH))
    return None if own is None else own["operators"]


def _drop_in(run: Run) -> float | None:
    rows = run.providers("generate", _GENERATE, BOTH)
    own = best_of_ours(rows, generate.DROP_IN)
    return None if own is None or PUBLISHED not in rows else rows[PUBLISHED]["median_s"] / own["median_s"]


def _recomputed(run: Run) -> float | None:
    rows = run.providers("step", _STEP, step.STEP)
    own, kept = best_of_ours(rows, step.RECOMPUTED), best_of_ours(rows)
    return None if own is None or kept is None else own["median_s"] / kept["median_s"]


def _mixed(what: str, name: str, tokens: int, hidden: int, tasks: int = 8) -> Value:
    point = mixed.point(what, tasks, tokens, hidden).name

    def value(run: Run) -> float | None:
        rows = run.providers("mixed", point, name)
        own, single = best_of_ours(rows), best_of_ours(rows, mixed.ONE_TASK)
        return None if own is None or single is None else own["median_s"] / single["median_s"]

    return value


def _merged(suffix: str, point: str, name: str) -> Value:
    def value(run: Run) -> float | None:
        rows = run.providers("predict", point, name)
        own = best_of_ours(rows, suffix)
        return None if own is None else own["median_s"] / rows[predict.FROZEN]["median_s"]

    return value


_FASTER = {"inverse": True}
ROWS = [
    Row("generation of one t5-base stack, forward + backward: faster than published style",
        Goal(15, True), Goal(100, True), _against("generate", _GENERATE, BOTH, PUBLISHED, **_FASTER)),
    Row("the same: dispatched operators", Goal(60, unit=""), Goal(60, unit=""), _operators),
    Row("the same: time over that of copying what must be read and written",
        None, Goal(1.5), _against_floor("generate", _GENERATE, BOTH, "bytes", "bytes_per_s")),
    Row("the same layer by layer, through the drop-in classes: faster than published style",
        Goal(10, True), None, _drop_in),
    Row("adapter forward, 4096 × 768: faster than plain PyTorch",
        Goal(1.6, True), Goal(3, True), _against("adapter", _ADAPTER, FORWARD, PLAIN, **_FASTER)),
    Row("the same: time over its floor",
        Goal(1.4), None, _against_floor("adapter", _ADAPTER, FORWARD, "flop", "flop_per_s")),
    Row("adapter forward, 32768 × 768: share of copy bandwidth", None, Goal(80, True, "%"), _bandwidth),
    Row("adapter forward + backward: faster than plain PyTorch",
        Goal(2, True), Goal(2.5, True), _against("adapter", _ADAPTER, BOTH, PLAIN, **_FASTER)),
    Row("the same: time over its floor",
        Goal(1.4), None, _against_floor("adapter", _ADAPTER, BOTH, "flop", "flop_per_s")),
    Row("lora_linear forward + backward, 4096 × 768: time over that of the frozen linear alone",
        Goal(1.1), Goal(1.1), _against("lora_linear", _LORA, BOTH, lora_linear.FROZEN)),
    *(Row(f"one call of {operator} on 8 tokens, forward + backward: time over plain PyTorch",
          Goal(0.6), Goal(0.6), _against("overhead", f"{operator}, 8 tokens", BOTH, PLAIN))
      for operator in ("adapter", "lora_linear", "generate")),
    *(Row(f"training step, MiniLM, {sentences} sentences: time over the frozen backbone, norms trained",
          Goal(goal), None, _against("step", at, step.STEP, step.FROZEN))
      for sentences, at, goal in ((32, _STEP, 1.15), (4, _SMALL_STEP, 1.1))),
    Row("training step, T5-base, 32 × 64: time over the frozen backbone, norms trained",
        None, Goal(1.1), _against("step", _T5_STEP, step.STEP, step.FROZEN)),
    *(Row(f"the same as a CUDA graph, {point}: time over the frozen backbone's",
          None, Goal(1.05), _against("captured", captured.point(*sizes, what).name, what, step.FROZEN))
      for point, sizes, what in (
          ("T5-base, 32 × 64", ("T5-base", 32, 64), step.STEP), ("MiniLM, 4 sentences", ("MiniLM", 4, 32), step.STEP),
          ("decoding of T5-small, 8 sentences", ("T5-small", 8, 32), captured.DECODING))),
    Row("training step, MiniLM, 4 sentences: faster than published style",
        Goal(2, True), Goal(3, True), _against("step", _SMALL_STEP, step.STEP, PUBLISHED, **_FASTER)),
    Row("training step, MiniLM, 32 sentences: faster than published style",
        Goal(1.1, True), Goal(3, True), _against("step", _STEP, step.STEP, PUBLISHED, **_FASTER)),
    Row("the same: peak memory over published style",
        Goal(0.85), Goal(0.8), _against("step", _STEP, step.STEP, PUBLISHED, "peak_bytes")),
    Row("the same with recompute_norms: peak memory over published style",
        Goal(0.85), Goal(0.8), _against("step", _STEP, step.STEP, PUBLISHED, "peak_bytes", suffix=step.RECOMPUTED)),
    Row("the same: time over a step without", Goal(1.03), Goal(1.03), _recomputed),
    Row("8 tasks in one batch, training step of MiniLM: time over one task",
        Goal(1.15), Goal(1.1), _mixed("MiniLM", step.STEP, 16, 384)),
    *(Row(f"8 tasks in one batch, {operator} forward + backward: time over one task",
          Goal(1.15), Goal(1.1), _mixed(operator, BOTH, 32, 768)) for operator in ("adapter", "lora_linear")),
    Row("64 tasks in one batch, a sentence each, training step of MiniLM: time over one task",
        Goal(1.5), Goal(1.5), _mixed("MiniLM", step.STEP, 16, 384, 64)),
    *(Row(f"64 tasks in one batch, a sentence each, {operator} forward + backward: time over one task",
          Goal(1.5), Goal(1.5), _mixed(operator, BOTH, 32, 768, 64)) for operator in ("adapter", "lora_linear")),
    *(Row(f"inference, {point}: time over the frozen backbone",
          goal, goal, _against("predict", point, "generate", predict.FROZEN))
      for point, goal in (("T5-small, 8 × 32 tokens", Goal(1.05)), ("T5-small, 8 tasks, 8 × 32 tokens", Goal(1.1)))),
    *(Row(f"inference, {point}: faster than PEFT's LoRA a task, adapter_names",
          Goal(1, True), None, _against("predict", point, name, predict.PEFT_TASKS, **_FASTER))
      for point, name in (
          ("MiniLM, 8 tasks, 32 × 32 tokens", "encode"), ("T5-small, 8 tasks, 8 × 32 tokens", "generate"))),
    *(Row(f"inference, {point}, merged{what}: time over the frozen backbone", goal, goal, _merged(suffix, point, name))
      for point, name in (("MiniLM, 32 × 32 tokens", "encode"), ("T5-small, 8 × 32 tokens", "generate"))
      for what, suffix, goal in ((" LoRA alone", predict.LORA_MERGED, Goal(1.05)), ("", predict.MERGED, Goal(1.1)))),
]  # fmt: skip


def table(runs: list[Run]) -> str:
    """Markdown: a line per budget, a column per run; a cell is empty where nothing was measured."""
    titles = [_title(run, runs) for run in runs]
    devices = list(dict.fromkeys(run.device for run in runs))
    goals = ["goal" if device == "cpu" else "goal, GPU" for device in devices]
    lines = [
        f"| what | {' | '.join([*goals, *titles])} |",
        f"|---|{'---:|' * (len(goals) + len(titles))}",
    ]
    for row in ROWS:
        if all(row.goal(device) is None for device in devices):
            continue
        cells = [str(row.goal(device) or "") for device in devices]
        lines.append(f"| {row.what} | {' | '.join([*cells, *(_cell(row, run) for run in runs)])} |")
    return "\n".join(lines)


def _cell(row: Row, run: Run) -> str:
    goal, value = row.goal(run.device), row.value(run)
    if goal is None or value is None:
        return ""
    if goal.met(value):
        return f"{goal.show(value)} met"
    shown = goal.show(value) if goal.show(value) != goal.show(goal.bound) else f"{value:.3f}{goal.unit}"
    return f"{shown} **missed**"


def _title(run: Run, runs: list[Run]) -> str:
    threads = f"{run.threads} thread{'s' if run.threads > 1 else ''}"
    name = threads if run.device == "cpu" else "GPU"
    on_cpus = {one.capability for one in runs if one.device == "cpu"}
    capability = f", {run.capability}" if run.device == "cpu" and len(on_cpus) > 1 else ""
    dtype = f", {run.dtype}" if len({one.dtype for one in runs}) > 1 else ""
    return f"{name}{capability}{dtype}"
