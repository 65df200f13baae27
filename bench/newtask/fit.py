"""One short training on a few examples, and what it scores: the same steps whatever is trained."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from hyperloader.data import subset
from hyperloader.data.formulation import Formulation
from hyperloader.training.evaluation import Scorer
from hyperloader.training.presets import training_options
from hyperloader.training.run_config import RunConfig
from hyperloader.training.trainer import MultiTaskTrainer


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
