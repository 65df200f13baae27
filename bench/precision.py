"""python -m bench.precision [RUN.yaml] [--steps 500] [--fraction 0.1] [--seeds 0 1] [--report]

How far half precision is from float32: the gradient of one real batch without dropout, of all that is trained together,
with both initialisations, of a new model and of a trained one; and the scores of runs in float32, with the backbone in
bfloat16, and computed in bfloat16 (`training.bf16`). Writes precision.json and the table in docs/models.md.
"""

import argparse
import copy
import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from bench import command, document, machine, results
from hyperloader.checkpoints.atomic import write_text
from hyperloader.training.presets import MODELS
from hyperloader.training.run import prepare, train
from hyperloader.training.run_config import RunConfig
from hyperloader.training.saved_run import load_run

FILE = results.ROOT / "precision" / "precision.json"
DOCUMENT = document.ROOT / "docs" / "models.md"
HALF = BFLOAT16, COMPUTED, FLOAT16 = "backbone in bfloat16", "computed in bfloat16", "backbone in float16"
TRAINED: dict[str, dict] = {
    "float32": {},
    BFLOAT16: {"backbone_dtype": "bfloat16"},
    COMPUTED: {},
}  # float16 trains on a GPU alone
INITS: dict[str, dict] = {"scaled": {"init": "scaled"}, "published": MODELS["published"]}
SCALE = 2.0**12  # of the loss in float16


def main(words: list[str] | None = None) -> None:
    """Measure, or make the table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.precision", description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=document.ROOT / "recipes" / "seven-tasks-minilm.yaml")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = command.parsed(parser, words, "precision", FILE, DOCUMENT)
    if not given.report:
        found = measure(RunConfig.from_yaml(given.run), given.steps, given.fraction, given.seeds)
        write_text(given.file, json.dumps(found, indent=1) + "\n")
    document.put(given.document, "precision", render(json.loads(given.file.read_text(encoding="utf-8"))))


def measure(config: RunConfig, steps: int, fraction: float, seeds: list[int]) -> dict:
    """Scores of short runs, and how far gradients are apart."""
    short = {"steps": steps, "select": "last", "eval_steps": steps, "save_steps": steps, "report_to": "none"}
    scores: dict[str, list[float]] = {}
    gradients = {}
    with TemporaryDirectory() as folder:
        for init, model in INITS.items():
            base = dataclasses.replace(
                config, output=f"{folder}/{init}", fraction=fraction, seed=seeds[0],
                training={**config.training, **short}, model={**config.model, **model},
            )  # fmt: skip
            gradients[f"{init}, new"] = errors(base, None)
            train(base, test=False, progress=False)
            gradients[f"{init}, trained"] = errors(base, load_run(base.output).hyperloader.trainable_state())
        for name, seed in itertools.product(TRAINED, seeds):
            changes: dict = {"seed": seed, "output": f"{folder}/{name} {seed}", **TRAINED[name]}
            training = {**config.training, **short, "bf16": name == COMPUTED}
            again = dataclasses.replace(config, fraction=fraction, training=training, **changes)
            scores.setdefault(name, []).append(train(again, progress=False)["test"]["mean_f1"])
            print(name, seed, scores[name][-1], flush=True)  # a loss that is no number would have ended the run
    return {
        "versions": machine.versions(), "hardware": machine.hardware(torch.device("cpu")),
        "steps": steps, "fraction": fraction, "seeds": seeds, "scores": scores, "gradients": gradients,
    }  # fmt: skip


def errors(config: RunConfig, state: dict[str, Tensor] | None) -> dict[str, dict[str, float]]:
    """Of each precision, how far the loss and the gradient of the run's first batch are from those in float32; of the
    model with the trained ``state``, of a new one without."""
    run, trainer, _ = prepare(config, config.load_tasks(), progress=False)
    if state is not None:
        run.model.load_trainable_state(state)
    batch = dict(next(iter(trainer.get_train_dataloader())))
    wanted_loss, wanted = loss_and_gradient(copy.deepcopy(run.model), batch)
    norm = math.sqrt(sum(one.square().sum().item() for one in wanted.values()))
    found = {}
    for name in HALF:
        loss, gradient = loss_and_gradient(copy.deepcopy(run.model), batch, name)
        apart = math.sqrt(sum((gradient[one] - wanted[one]).square().sum().item() for one in wanted))
        found[name] = {"loss": abs(loss - wanted_loss) / wanted_loss, "gradient": apart / norm}
    print(found, flush=True)
    return found


def loss_and_gradient(model: nn.Module, batch: dict, name: str = "float32") -> tuple[float, dict[str, Tensor]]:
    """Of a batch without dropout, in the precision ``name``."""
    model, scale = model.eval(), SCALE if name == FLOAT16 else 1.0
    if name in (BFLOAT16, FLOAT16):
        model.to(torch.bfloat16 if name == BFLOAT16 else torch.float16)  # what is trained stays in float32
    with torch.autocast("cpu", torch.bfloat16, enabled=name == COMPUTED):
        loss = model(**batch).loss
    (scale * loss).backward()
    return loss.item(), {one: it.grad.double() / scale for one, it in model.named_parameters() if it.grad is not None}


def render(found: dict) -> str:
    """Markdown: a line for each precision."""
    names = list(found["gradients"])
    rows = []
    for name in ("float32", *HALF):
        scores = [f"{100 * one:.1f}" for one in found["scores"].get(name, [])]
        apart = [found["gradients"][one].get(name) for one in names]
        cells = ["0" if one is None else f"{100 * one['gradient']:.2f} %" for one in apart]
        rows.append(f"| {name} | {' | '.join(cells)} | {' / '.join(scores) or 'trains on a GPU alone'} |")
    hardware, versions = found["hardware"]["device"], found["versions"]["torch"]
    return "\n".join(
        [
            f"| | {' | '.join(f'gradient: {one}' for one in names)} | mean F1 |",
            f"|---|{'---:|' * (len(names) + 1)}",
            *rows,
            "",
            "The gradient of one batch (norm of its difference from float32 over its norm; in float16 of a loss scaled "
            f"by {SCALE:,.0f}), of a new model and after {found['steps']:,} steps; `published` is the preset. Mean "
            f"test F1 after as many steps on {100 * found['fraction']:.2g} % of the data, seeds "
            f"{', '.join(map(str, found['seeds']))}; the loss was finite in every step. MiniLM on the seven data sets, "
            f"{hardware}, torch {versions}.",
        ]
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
