"""python -m bench.newtask PLAN.yaml [--report]

Trains a model on all tasks but one and looks into it, then trains that one on a few of its examples, and writes one
JSON a run; a run whose JSON is there is not trained again, and the base goes on where it stopped. Then puts tables and
charts into docs/results.md.
"""

import argparse
import json
import sys
from pathlib import Path

from bench import command
from bench.newtask import report
from bench.newtask.fit import run_one
from bench.newtask.learn import learn
from bench.newtask.plan import Plan
from hyperloader.checkpoints.atomic import write_text
from hyperloader.cli.inspect import NUMBERS, inspect
from hyperloader.training.run import train


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.newtask", description=__doc__)
    parser.add_argument("plan", help="YAML file, such as recipes/new-task.yaml")
    parser.add_argument("--report", action="store_true", help="train nothing, only make table and chart")
    arguments = parser.parse_args(words)
    plan = Plan.from_yaml(arguments.plan)
    if not arguments.report:
        plan.results.mkdir(parents=True, exist_ok=True)
        tasks = {task.name: task for task in plan.recipe.load_tasks()}
        train_base(plan)
        look_inside(plan)
        for run in plan.searches():
            run_one(plan, tasks, run, report.read, learn)
        for run in plan.learnings(report.chosen_rates(plan)):
            run_one(plan, tasks, run, report.read, learn)
    report.write(plan)


def train_base(plan: Plan) -> None:
    """Train the model of the other tasks and write down how well it does on their validation sets."""
    config = plan.base_config
    metrics = train(config, resume=Path(config.output).exists(), progress=False, test=False)
    tasks = {task: scores["f1"] for task, scores in metrics["validation"]["tasks"].items()}
    kept = {key: metrics[key] for key in ("steps", "best_step", "trainable_parameters", "config", "versions")}
    kept |= {"validation_f1": metrics["validation"]["mean_f1"], "tasks": tasks}
    write_text(plan.results / "base.json", json.dumps(kept, ensure_ascii=False, indent=1))
    print(f"base: validation F1 {100 * kept['validation_f1']:.2f}", flush=True)


def look_inside(plan: Plan) -> None:
    """Show what the base's hypernetwork generates, and whether it uses its tasks' names."""
    folder = plan.results / "inspect"
    if not (folder / NUMBERS).exists():
        inspect(Path(plan.base_config.output), folder)


if __name__ == "__main__":
    sys.exit(command.run(main))
