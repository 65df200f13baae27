"""python -m bench.study PLAN.yaml [--report]

Trains what the plan names and writes one JSON a run; a run whose JSON is there is not trained again, an interrupted one
goes on where it stopped. Then measures all methods side by side, and puts table and chart into the README.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bench.study import report
from bench.study.plan import Plan
from hyperloader.training.run import RunConfig, train

_KEPT = (
    "method", "test", "validation", "trainable_parameters", "parameters", "steps", "best_step", "learning_curve",
    "encoding", "config", "versions",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study", description=__doc__)
    parser.add_argument("plan", help="YAML file of a study")
    parser.add_argument("--report", action="store_true", help="train nothing: make table and chart from what is there")
    arguments = parser.parse_args()
    plan = Plan.from_yaml(arguments.plan)
    if not arguments.report:
        run_all(plan)
        measure(arguments.plan, plan)
    report.write(plan)


def run_all(plan: Plan) -> None:
    """Every run of the plan that has no JSON yet."""
    for name, _, _, config in plan.searches():
        run_one(plan, name, config)
    rates = report.chosen_rates(plan)
    for stage in plan.stages:
        for seed in stage.seeds:
            for method in stage.methods:
                name = f"{stage.name}-{method}-{seed}"
                sizes = {"fraction": stage.fraction, "steps": stage.steps, "seed": seed}
                run_one(plan, name, plan.config(method, **sizes, rate=rates[method], folder=name))


def run_one(plan: Plan, name: str, config: RunConfig) -> None:
    """Train ``config`` unless its JSON is there."""
    path = plan.results / f"{name}.json"
    if path.is_file():
        return
    print(f"{name}: {config.training['steps']} steps at {config.training['learning_rate']:g}", flush=True)
    metrics = train(config, resume=Path(config.output).exists(), progress=sys.stderr.isatty())
    kept = {key: metrics[key] for key in _KEPT}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
    aside.replace(path)
    print(f"{name}: test F1 {100 * metrics['test']['mean_f1']:.2f}", flush=True)


def measure(plan_path: str, plan: Plan) -> None:
    """Time and memory of a step, in fresh processes: memory is a process's own, and so is what it has warmed up."""
    if not (plan.results / "step.json").is_file():
        subprocess.run([sys.executable, "-m", "bench.study.step", plan_path], check=True)


if __name__ == "__main__":
    main()
