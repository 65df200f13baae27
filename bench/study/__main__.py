"""python -m bench.study PLAN.yaml [--jobs N] [--report]

Trains what the plan names and writes one JSON a run; a run whose JSON is there is not trained again, an interrupted one
goes on where it stopped. Then measures all methods side by side, and puts tables and charts into docs/results.md, the
means into the README.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.study import report
from bench.study.plan import Plan
from hyperloader.checkpoints.atomic import write_text
from hyperloader.training.run import RunConfig, train

_KEPT = (
    "method", "test", "validation", "trainable_parameters", "parameters", "steps", "best_step", "learning_curve",
    "encoding", "config", "versions",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study", description=__doc__)
    parser.add_argument("plan", help="YAML file of a study")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores")
    parser.add_argument("--report", action="store_true", help="train nothing, only make tables and charts")
    parser.add_argument("--run", metavar="NAME", help="train this run alone")
    arguments = parser.parse_args()
    plan = Plan.from_yaml(arguments.plan)
    if arguments.run:
        run_one(plan, arguments.run, {**searches(plan), **trainings(plan)}[arguments.run])
        return
    if not arguments.report:
        run_all(arguments.plan, plan, searches(plan), arguments.jobs)
        run_all(arguments.plan, plan, trainings(plan), arguments.jobs)
        measure(arguments.plan, plan)
    report.write(plan)


def searches(plan: Plan) -> dict[str, RunConfig]:
    """The runs that choose learning rates, by name."""
    return {name: config for name, _, _, config in plan.searches()}


def trainings(plan: Plan) -> dict[str, RunConfig]:
    """The runs that are compared, by name; empty as long as a learning rate is not chosen."""
    rates = report.chosen_rates(plan)
    runs = {}
    for stage in plan.stages:
        for seed in stage.seeds:
            for method in stage.methods:
                if method in rates:
                    name = f"{stage.name}-{method}-{seed}"
                    sizes = {"fraction": stage.fraction, "steps": stage.steps, "seed": seed}
                    runs[name] = plan.config(method, **sizes, rate=rates[method], folder=name, **stage.training)
    return runs


def run_all(plan_path: str, plan: Plan, runs: dict[str, RunConfig], jobs: int) -> None:
    """Train every run that has no JSON yet, ``jobs`` at a time, each in a process of its own."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    waiting = [name for name in runs if not (plan.results / f"{name}.json").is_file()]

    def start(name: str) -> None:
        command = [sys.executable, "-m", "bench.study", plan_path, "--run", name]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": threads})

    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(start, waiting):
            pass


def run_one(plan: Plan, name: str, config: RunConfig) -> None:
    """Train ``config`` and write its JSON; a search is scored on validation alone."""
    path = plan.results / f"{name}.json"
    split = "validation" if name in searches(plan) else "test"
    print(f"{name}: {config.training['steps']} steps at {config.training['learning_rate']:g}", flush=True)
    metrics = train(config, resume=Path(config.output).exists(), progress=False, test=split == "test")
    kept = {key: metrics[key] for key in _KEPT}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(kept, ensure_ascii=False, indent=1))
    print(f"{name}: {split} F1 {100 * metrics[split]['mean_f1']:.2f}", flush=True)


def measure(plan_path: str, plan: Plan) -> None:
    """Time and memory of a step, in fresh processes: memory is a process's own, and so is what it has warmed up."""
    if not (plan.results / "step-times.json").is_file():
        subprocess.run([sys.executable, "-m", "bench.study.step", plan_path], check=True)


if __name__ == "__main__":
    main()
