"""python -m bench.study.step PLAN.yaml: seconds and memory of a step of every row of the first stage.

Times: all rows in one process, the same batches, in turn, the median over rounds. Memory: one process per row, which
reads a few ready batches and trains on them; what it needed at most beyond the libraries and the backbone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench import command
from bench.study.plan import Plan
from hyperloader.checkpoints.atomic import write_text
from hyperloader.data import MultiTaskBatches, TokenClassification, subset
from hyperloader.training.backbone import load_backbone
from hyperloader.training.methods import build_model
from hyperloader.training.versions import versions

_ROUNDS, _WARM_UP, _MEMORY_STEPS = 40, 4, 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study.step", description=__doc__)
    parser.add_argument("plan", help="YAML file of a study")
    parser.add_argument("--memory", metavar="ROW", help="print the peak memory of this row's steps, in bytes")
    parser.add_argument("--batches", metavar="FILE", help="labels and batches for --memory")
    arguments = parser.parse_args()
    plan = Plan.from_yaml(arguments.plan)
    if arguments.memory:
        print(peak_memory(plan, arguments.memory, **torch.load(arguments.batches, weights_only=True)))
        return
    rows = plan.stages[0].rows
    labels = {task.name: task.labels for task in plan.recipe.load_tasks()}
    batches = _batches(plan, _ROUNDS + _WARM_UP)
    seconds = step_seconds(plan, rows, labels, batches)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "batches.pt")
        torch.save({"labels": labels, "batches": batches[:_MEMORY_STEPS]}, file)
        memory = {row: _in_fresh_process(arguments.plan, row, file) for row in rows}
    result = {
        "rounds": _ROUNDS,
        "seconds": seconds,
        "peak_memory_bytes": memory,
        "versions": versions(torch.device("cpu")),
    }
    plan.results.mkdir(parents=True, exist_ok=True)
    write_text(plan.results / "step-times.json", json.dumps(result, indent=1))


def step_seconds(plan: Plan, rows: list[str], labels: dict, batches: list) -> dict[str, dict[str, float]]:
    """Median and 10th and 90th percentile of a step, by row."""
    trainers = {row: _Stepper(plan, row, labels) for row in rows}
    samples = {row: [] for row in rows}
    for number, batch in enumerate(batches):
        turn = rows[number % len(rows) :] + rows[: number % len(rows)]
        for row in turn:
            began = time.perf_counter()
            trainers[row].step(batch)
            if number >= _WARM_UP:
                samples[row].append(time.perf_counter() - began)
    found = {}
    for row, values in samples.items():
        tenths = statistics.quantiles(values, n=10)
        found[row] = {"median": statistics.median(values), "p10": tenths[0], "p90": tenths[-1]}
    return found


def peak_memory(plan: Plan, row: str, labels: dict, batches: list) -> int:
    """Bytes that training steps of ``row`` need beyond what stood in memory with the backbone alone."""
    standing: list[int] = []
    stepper = _Stepper(plan, row, labels, before=lambda: standing.append(_peak()))
    for batch in batches:
        stepper.step(batch)
    return _peak() - standing[0]


class _Stepper:
    """A model of one row and the step that its training repeats."""

    def __init__(self, plan: Plan, row: str, labels: dict, before: Callable[[], None] = lambda: None):
        backbone, _ = load_backbone(plan.recipe.backbone, plan.recipe.head)
        before()
        run = plan.config(row, fraction=1.0, steps=1, seed=0, learning_rate=1e-6, folder=row)
        self.model = build_model(run.method, backbone, list(labels), labels, run.model_options).train()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-6, fused=True)

    def step(self, batch) -> None:
        self.model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _batches(plan: Plan, count: int) -> list:
    """The first ``count`` batches of the plan's runs."""
    options, stage = plan.recipe.options, plan.stages[0]
    tasks = plan.recipe.load_tasks()
    _, tokenizer = load_backbone(plan.recipe.backbone, plan.recipe.head)
    formulation = TokenClassification(tokenizer, {task.name: task.labels for task in tasks}, options.max_length)
    part = {task.name: subset(task.train, stage.fraction, 0, task.name) for task in tasks}
    examples = list(formulation.encode_all(part).values())
    batches = MultiTaskBatches(
        [len(task) for task in examples],
        options.batch_size,
        count,
        lengths=[[len(example.input_ids) for example in task] for task in examples],
        **options.batches,
    )
    return [formulation.collate([examples[task][index] for task, index in batch]) for batch in batches]


def _in_fresh_process(plan_path: str, row: str, batches: str) -> int:
    command = [sys.executable, "-m", "bench.study.step", plan_path, "--memory", row, "--batches", batches]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _peak() -> int:
    """Peak resident bytes of this program alone; getrusage would count the parent's from before exec."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    sys.exit(command.run(main))
