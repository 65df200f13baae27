"""One training on the new task."""

import torch
from torch import Tensor, nn
from transformers import set_seed

from bench.newtask.fit import fit, outcome, some_of
from bench.newtask.plan import Learning, Plan
from hyperloader.data import TokenClassification
from hyperloader.data.tasks import Task
from hyperloader.training.backbone import load_backbone
from hyperloader.training.methods import METHODS, build_model
from hyperloader.training.saved_run import load_run


def learn(plan: Plan, tasks: dict[str, Task], run: Learning) -> dict:
    """Train as ``run`` says and score on the new task; with the base's model also whether the other tasks' outputs are
    the same bits as before."""
    new = tasks[plan.held_out]
    set_seed(run.seed)
    model, formulation = _adapters(plan, new) if run.method == "adapter" else _of_base(plan, new, run.method)
    split = getattr(new, run.scored)
    scored = split if run.sentences is None else some_of(split, run.sentences, run.seed, new.name)
    before = _outputs(model, formulation, tasks)
    scores, seconds = fit(
        model, formulation, new.name, some_of(new.train, run.examples, run.seed, new.name), scored, plan.recipe,
        plan.runs / run.name, steps=plan.steps, batch_size=plan.batch_size, rate=run.rate, seed=run.seed,
    )  # fmt: skip
    after = _outputs(model, formulation, tasks)
    return {
        "scores": scores,
        "others_unchanged": None if before is None else torch.equal(before, after),
        **outcome(model, seconds, run),
    }


def _of_base(plan: Plan, new: Task, method: str) -> tuple[nn.Module, TokenClassification]:
    base = load_run(plan.base_config.output)
    base.model.add_task(new.name, init="mean", labels=new.labels)
    base.model.freeze_except_task_embedding(new.name)
    if method == "head":
        base.model.task_embedding.row.requires_grad_(False)
    labels = {**base.labels, new.name: new.labels}
    return base.model, TokenClassification(base.formulation.tokenizer, labels, plan.recipe.options.max_length)


def _adapters(plan: Plan, new: Task) -> tuple[nn.Module, TokenClassification]:
    backbone, tokenizer = load_backbone(plan.recipe.backbone, plan.recipe.head)
    sizes = {key: value for key, value in plan.recipe.model_options.items() if key in METHODS["adapter"]}
    labels = {new.name: new.labels}
    model = build_model("adapter", backbone, [new.name], labels, sizes)
    return model, TokenClassification(tokenizer, labels, plan.recipe.options.max_length)


@torch.no_grad()
def _outputs(model: nn.Module, formulation: TokenClassification, tasks: dict[str, Task]) -> Tensor | None:
    """Logits of a batch of sentences of all other tasks; None if the model has no others."""
    others = [name for name in formulation.labels if name in tasks][:-1]
    if not others:
        return None
    encoded = formulation.encode_all({name: tasks[name].validation[:4] for name in others})
    batch = formulation.collate([example for some in encoded.values() for example in some])
    was_training = model.training
    logits = model.eval()(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    model.train(was_training)
    return logits
