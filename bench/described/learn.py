"""One held-out task: what a model makes of it at once, or after a short training."""

import copy
import functools
import random
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from bench.described.plan import Learning, Plan
from bench.newtask.fit import fit, outcome, score, some_of
from hyperloader.config import TAGGING
from hyperloader.data.examples import label_counts
from hyperloader.data.heads import make_formulation
from hyperloader.data.tasks import Task
from hyperloader.task_words import names_of, words_for
from hyperloader.training.backbone import load_backbone
from hyperloader.training.headlines import headline
from hyperloader.training.methods import build_model
from hyperloader.training.saved_run import load_run


def learn(plan: Plan, tasks: dict[str, Task], run: Learning) -> dict:
    """Train as ``run`` says, if it has examples, and score."""
    task = tasks[run.task]
    set_seed(run.seed)
    if run.method == "lora":
        backbone, tokenizer = load_backbone(plan.recipe.backbone, plan.recipe.head)
        labels, kinds = {task.name: task.labels}, {task.name: task.kind}
        model = build_model("lora", backbone, [task.name], labels, {}, kinds)
    else:
        base = _loaded(plan.base_config(run.seed if run.seed in plan.seeds else plan.seeds[0]).output)
        model, tokenizer = copy.deepcopy(base.model), base.formulation.tokenizer
        labels, kinds = {**base.labels, task.name: task.labels}, {**base.kinds, task.name: task.kind}
        begin(model, task, run, tasks)
    formulation = make_formulation(plan.recipe.head, tokenizer, labels, plan.recipe.options.max_length, kinds=kinds)
    examples = some_of(task.train, run.examples, run.seed, task.name) if run.examples else []
    scored = scored_part(task, run.scored, run.sentences)
    if not examples:
        scores, seconds = score(model, formulation, task.name, scored, plan.recipe.options.eval_batch_size), None
    else:
        if run.method in ("mean", "lora"):  # as a run does: fresh heads know how frequent their labels are
            counts = label_counts(formulation.encode_all({task.name: examples})[task.name], len(task.labels))
            model.heads.begin_at([None] * (len(labels) - 1) + [counts])
        scores, seconds = fit(
            model, formulation, task.name, examples, scored, plan.recipe, plan.runs / run.name,
            steps=plan.steps, batch_size=plan.batch_size, rate=run.rate, seed=run.seed,
        )  # fmt: skip
    return {
        "score": scores[headline(scores)],
        "headline": headline(scores),
        "scores": scores,
        **outcome(model, seconds, run),
    }


def scored_part(task: Task, split: str, sentences: int) -> list:
    """So many sentences of a split, the same for every run."""
    return some_of(getattr(task, split), sentences, 0, task.name)


_loaded = functools.lru_cache(maxsize=1)(load_run)


@torch.no_grad()
def begin(model: Any, task: Task, run: Learning, tasks: dict[str, Task]) -> None:
    """Add ``task`` to ``model`` as the method begins, with nothing but its row and head to be trained."""
    tagging = task.kind.name == TAGGING
    names = names_of(task.labels, tagging)
    words = {name: words_for(name, task.label_words) for name in names}
    description: list[str] = list(task.description[:1])
    if run.method == "random":
        description, words = randomised(description, words, vocabulary(tasks), run.seed)
    number = model.add_task(
        task.name, labels=task.labels, kind=task.kind.name, description=description, label_words=words
    )
    if run.method in ("mean", "head"):
        embedding, others = model.task_embedding, torch.arange(number)
        embedding.weight[number] = embedding(others).mean(0)
        embedding.texts[embedding.starts[number]] = 0  # of which the layer norm leaves zeros
    if run.method == "mean":
        nn.init.normal_(model.heads.heads[number].weight, 0, 0.02)
        model.heads.texts[-len(task.labels) :] = 0
    model.freeze_except_task_embedding(task.name)


def vocabulary(tasks: dict[str, Task]) -> list[str]:
    """The words of all descriptions and labels."""
    texts = [text for task in tasks.values() for text in (*task.description, *task.label_words.values())]
    return sorted({word.strip(".,").lower() for text in texts for word in text.split()})


def randomised(
    description: list[str], words: dict[str, str], known: list[str], seed: int
) -> tuple[list[str], dict[str, str]]:
    """Each text as many ``known`` words, drawn by ``seed``."""
    draw = random.Random(seed)

    def other(text: str) -> str:
        return " ".join(draw.choice(known) for _ in text.split())

    return [other(text) for text in description], {name: other(text) for name, text in words.items()}
