"""One short training on a few examples, and what it scores: the same steps whatever is trained."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyperloader.checkpoints.atomic import write_text
from hyperloader.data import subset
from hyperloader.data.formulation import Formulation
from hyperloader.training.evaluation import Scorer
from hyperloader.training.headlines import headline
from hyperloader.training.presets import training_options
from hyperloader.training.run_config import RunConfig
from hyperloader.training.trainer import MultiTaskTrainer
from hyperloader.training.versions import versions


def some_of(sentences: Sequence, count: int, seed: int, name: str) -> list:
    """A fixed random choice of ``count`` sentences, or all."""
    return subset(list(sentences), min(1.0, count / len(sentences)), seed, name)


def fit(
    model: nn.Module,
    formulation: Formulation,
    task: str,
    examples: Sequence,
    scored: Sequence,
    recipe: RunConfig,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    rate: float,
    seed: int,
) -> tuple[dict, float]:
    """Train ``model`` on ``examples`` of ``task`` as ``recipe`` says otherwise; its scores on the sentences ``scored``,
    at the end, and the seconds of a step."""
    changes = {"steps": steps, "batch_size": min(batch_size, len(examples)), "learning_rate": rate}
    changes |= {"eval_steps": steps, "save_steps": steps, "report_to": "none"}
    options = training_options(recipe.preset, "hyperloader", {**recipe.training, **changes})
    scorer = Scorer(formulation, {task: scored}, options.eval_batch_size)
    scores = []

    def validate(model: nn.Module) -> dict:  # once, at the end
        scores.append(scorer(model))
        return scores[-1]

    shutil.rmtree(folder, ignore_errors=True)
    encoded = [formulation.encode_all({task: examples})[task]]
    trainer = MultiTaskTrainer(
        model, options, folder, encoded, formulation.collate, validate, seed=seed, data_seed=seed, progress=False
    )
    trainer.train()
    return scores[-1]["tasks"][task], trainer.step_times.median()


@torch.no_grad()
def score(model: nn.Module, formulation: Formulation, task: str, scored: Sequence, batch_size: int) -> dict:
    """The scores of ``model`` as it is."""
    return Scorer(formulation, {task: scored}, batch_size)(model)["tasks"][task]


def outcome(model: nn.Module, seconds: float | None, run: Any) -> dict:
    """What is kept of every training beside its scores."""
    return {
        "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "seconds_per_step": seconds,
        "run": vars(run),
        "versions": versions(torch.device("cpu")),
    }


def run_one(plan: Any, tasks: dict, run: Any, read: Callable, learn: Callable) -> None:
    """Have ``learn`` train ``run`` and write its JSON, unless ``read`` finds one."""
    if read(plan, run) is not None:
        return
    result = learn(plan, tasks, run)
    write_text(plan.results / f"{run.name}.json", json.dumps(result, ensure_ascii=False, indent=1))
    key = headline(result["scores"])
    print(f"{run.name}: {run.scored} {key} {100 * result['scores'][key]:.2f}", flush=True)
