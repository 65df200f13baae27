"""python -m bench.decoder [RECIPE.yaml] [--steps 200] [--batch-size 8] [--sentences 100] [--rates] [--time] [--report]

Trains the tasks of a recipe as one HyperLoader model, as one LoRA that all of them share, and as one LoRA a task, each
with the same number of steps in all, and scores them on the same test sentences. Writes one JSON a run into
bench/results/decoder, and the table into docs/results.md; a run that stopped goes on, one that is there is not run
again. Before it, --rates takes the first steps at several learning rates and keeps that of the lowest loss, in place of
the recipe's. --time measures a step of two of them, one thread each and both at once, on a machine that is to be idle.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from bench import command, document, machine, results
from bench.decoder import report
from hyperloader.checkpoints.atomic import write_text
from hyperloader.training.dry_run import dry_run
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig

RECIPE = document.ROOT / "recipes" / "language-model.yaml"
LORA = {"rank": 8}
RATES = {"hyperloader": (1e-3, 3e-3), "lora": (1e-3, 3e-3, 1e-2, 3e-2)}
FIRST = 60  # steps, in which hardly a sentence comes twice, so that the loss is that of sentences not trained on
_KEPT = ("test", "steps", "seconds_per_step", "trainable_parameters", "versions")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.decoder", description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path, default=RECIPE)
    parser.add_argument("--steps", type=int, default=200, help="in all, of each of the three")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sentences", type=int, default=100, help="of each task that are scored, at most")
    parser.add_argument("--output", type=Path, default=results.ROOT / "decoder", help="for the JSON files")
    parser.add_argument("--rates", action="store_true", help="choose learning rates; train nothing to its end")
    parser.add_argument("--time", action="store_true", help="measure steps; train nothing")
    parser.add_argument("--rounds", type=int, default=2, help="of --time")
    parser.add_argument("--only", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="only make the table")
    given = parser.parse_args(words)
    runs = runs_of(given)
    if given.only:
        print(json.dumps(step_of(runs[given.only], FIRST)))
        return
    if given.rates:
        results.writable(given.output)
        write_text(given.output / report.RATES, json.dumps(rates(runs), indent=1))
    elif given.time:
        results.writable(given.output)
        write_text(given.output / report.STEPS, json.dumps(times(given, list(runs)[:2]), indent=1))
    elif not given.report:
        chosen = report.chosen_rates(given.output)
        results.writable(given.output)
        for name, config in runs.items():
            rate = chosen.get(config.method, config.options.learning_rate)
            run(name, _at(config, rate), given.output)
    if not (given.rates or given.time):
        report.write(given.output)


def runs_of(given: argparse.Namespace) -> dict[str, RunConfig]:
    """The runs by name: ``hyperloader``, ``lora``, and ``lora-TASK`` of every task with its share of the steps."""
    recipe = RunConfig.from_yaml(given.recipe)
    if not isinstance(recipe.tasks, list):
        raise results.UsageError(f"{given.recipe}: tasks must be a list, got the file {recipe.tasks}")
    entries = recipe.task_entries()
    changes = {"steps": given.steps, "batch_size": given.batch_size, "eval_sentences": given.sentences}
    changes |= {"save_steps": 50, "report_to": "none"}

    def of(name: str, **values: object) -> RunConfig:
        folder = f"{recipe.output}-{name}-{given.steps}x{given.batch_size}"
        return dataclasses.replace(recipe, output=folder, training={**recipe.training, **changes}, **values)

    found = {"hyperloader": of("hyperloader"), "lora": of("lora", method="lora", model=LORA)}
    changes = {**changes, "steps": given.steps // len(entries)}
    for entry, task in zip(entries, recipe.tasks, strict=True):
        name = f"lora-{entry.name.replace(' ', '-')}"
        found[name] = of(name, method="lora", model=LORA, tasks=[task])
    return found


def _at(config: RunConfig, rate: float) -> RunConfig:
    return dataclasses.replace(config, training={**config.training, "learning_rate": rate})


def rates(runs: dict[str, RunConfig]) -> dict[str, dict[str, float]]:
    """Of each method and learning rate the mean loss of the second half of the ``FIRST`` steps."""
    found: dict[str, dict[str, float]] = {}
    for method, some in RATES.items():
        for rate in some:
            losses = dry_run(_at(runs[method], rate), FIRST).losses
            found.setdefault(method, {})[f"{rate:g}"] = statistics.mean(losses[len(losses) // 2 :])
            print(f"{method} {rate:g}: {found[method][f'{rate:g}']:.3f}", flush=True)
    return found


def run(name: str, config: RunConfig, output: Path) -> None:
    """Train ``config`` and write its JSON, unless that is there."""
    path, asked = output / f"{name}.json", {"training": vars(config.options), "model": config.model_options}
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["asked"] == asked:
        return
    metrics = train(config, resume=Path(config.output).exists(), progress=False, lines=True)
    kept = {key: metrics[key] for key in _KEPT} | {"asked": asked, "commit": machine.commit()}
    write_text(path, json.dumps(kept, ensure_ascii=False, indent=1))
    print(f"{name}: {metrics['test']}", flush=True)


def step_of(config: RunConfig, steps: int) -> dict:
    """Seconds of a step, and bytes that the process had at most."""
    found = dry_run(config, steps)
    return {"seconds": found.step.seconds, "memory": found.memory}


def times(given: argparse.Namespace, names: list[str]) -> dict:
    """``step_of`` each of ``names``, in processes of one thread that run at the same time."""
    found: dict[str, list[dict]] = {name: [] for name in names}
    words = [sys.executable, "-m", "bench.decoder", str(given.recipe), "--steps", str(given.steps)]
    words += ["--batch-size", str(given.batch_size), "--only"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(given.rounds):
        running = {
            name: subprocess.Popen([*words, name], stdout=subprocess.PIPE, text=True, env=environment) for name in names
        }
        for name, process in running.items():
            said, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"{name}: exit status {process.returncode}")
            found[name].append(json.loads(said.splitlines()[-1]))
            print(f"{name}: {found[name][-1]}", flush=True)
    return {"hardware": machine.hardware(torch.device("cpu")), "steps": found}


if __name__ == "__main__":
    sys.exit(command.run(main))
