"""python -m bench.described PLAN.yaml [--report]

Trains a model a seed on all tasks but those held out, each in words; then learns the others from their words and a few
examples, and writes one JSON a run; a run whose JSON is there is not trained again, and a model goes on where it
stopped. Then puts the table into docs/results.md.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from bench import command
from bench.described import report
from bench.described.learn import learn, scored_part
from bench.described.plan import Plan
from bench.newtask.fit import run_one
from hyperloader.checkpoints.atomic import write_text
from hyperloader.cli.inspect import NUMBERS, inspect
from hyperloader.config import CLASSIFICATION
from hyperloader.data.tasks import Task
from hyperloader.training.run import train


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.described", description=__doc__)
    parser.add_argument("plan", help="YAML file, such as recipes/held-out-tasks.yaml")
    parser.add_argument("--report", action="store_true", help="train nothing, only make the table")
    arguments = parser.parse_args(words)
    plan = Plan.from_yaml(arguments.plan)
    if not arguments.report:
        plan.results.mkdir(parents=True, exist_ok=True)
        for seed in plan.seeds:
            train_base(plan, seed)
        look_inside(plan)
        tasks = {task.name: task for task in plan.recipe.load_tasks()}
        write_text(plan.results / report.COMMON, json.dumps(most_common(plan, tasks), ensure_ascii=False, indent=1))
        for run in plan.searches():
            run_one(plan, tasks, run, report.read, learn)
        for run in plan.learnings(report.chosen_rates(plan)):
            run_one(plan, tasks, run, report.read, learn)
    report.write(plan)


def train_base(plan: Plan, seed: int) -> None:
    """Train the model of ``seed`` and write down how well it does on its own tasks' validation sets."""
    config, path = plan.base_config(seed), plan.results / f"base-{seed}.json"
    if path.exists() and Path(config.output).exists():
        return
    metrics = train(config, resume=Path(config.output).exists(), progress=False, test=False)
    kept = {
        key: metrics[key] for key in ("validation", "steps", "seconds_per_step", "trainable_parameters", "versions")
    }
    write_text(path, json.dumps(kept, ensure_ascii=False, indent=1))
    print(f"base {seed}: {metrics['seconds_per_step']:.2f} s a step", flush=True)


def look_inside(plan: Plan) -> None:
    """Score the first model with every task's description and with another's."""
    kept, folder = plan.results / NUMBERS, plan.runs / "inspect"
    if not kept.exists():
        inspect(Path(plan.base_config(plan.seeds[0]).output), folder)
        shutil.copy(folder / NUMBERS, kept)


def most_common(plan: Plan, tasks: dict[str, Task]) -> dict[str, float]:
    """Of the held-out classifications, the score of always the most frequent label."""
    found = {}
    for name in plan.held_out:
        if tasks[name].kind.name == CLASSIFICATION:
            labels = [one.label for one in scored_part(tasks[name], "test", plan.sentences)]
            found[name] = max(map(labels.count, labels)) / len(labels)
    return found


if __name__ == "__main__":
    sys.exit(command.run(main))
