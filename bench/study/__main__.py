"""python -m bench.study PLAN.yaml [--jobs N] [--seconds S] [--report]

Trains what the plan names and writes one JSON a run; a run whose JSON is there is not trained again, an interrupted one
goes on where it stopped. Then measures all methods side by side, and puts tables and charts into docs/results.md, the
means into the README.
"""

import argparse
import subprocess
import sys
import time

from bench import command
from bench.study import report
from bench.study.plan import Plan
from bench.study.runs import run_all


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study", description=__doc__)
    parser.add_argument("plan", help="YAML file of a study")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores")
    parser.add_argument("--seconds", type=float, help="end what is under way after so long; the next call goes on")
    parser.add_argument("--backbone", metavar="FOLDER", help="where the recipe's backbone lies on this machine")
    parser.add_argument("--steps", type=int, help="try the plan: every run takes so many steps, into runs/tried")
    parser.add_argument("--train", action="store_true", help="only train: no step is timed, no document written")
    parser.add_argument("--report", action="store_true", help="train nothing, only make tables and charts")
    arguments = parser.parse_args()
    plan = Plan.from_yaml(arguments.plan, arguments.backbone)
    if arguments.steps is not None:
        plan = plan.tried(arguments.steps)
    until = None if arguments.seconds is None else time.monotonic() + arguments.seconds
    if not arguments.report:
        searched = run_all(dict(plan.searches()), plan.results, arguments.jobs, until)
        rates = report.chosen_rates(plan)
        if not searched or not run_all(dict(plan.trainings(rates)), plan.results, arguments.jobs, until):
            print(f"time is up; call again to go on, with what is in {plan.results} and {plan.runs}")
            return
    if arguments.train:
        return
    if not arguments.report:
        measure(arguments.plan, plan)
    report.write(plan)


def measure(plan_path: str, plan: Plan) -> None:
    """Time and memory of a step, in fresh processes: memory is a process's own, and so is what it has warmed up."""
    if not (plan.results / "step-times.json").is_file():
        subprocess.run([sys.executable, "-m", "bench.study.step", plan_path], check=True)


if __name__ == "__main__":
    sys.exit(command.run(main))
