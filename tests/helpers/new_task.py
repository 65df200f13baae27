"""A model that has a new task, and its training: for the tests of add_task and freeze_except_task_embedding."""

import pytest
import torch
from helpers import tiny
from helpers.tiny import TASK_IDS, TASKS, make_batch, make_model

NEW, NEW_LABELS = "new", ["O", "B-w"]
each_name = pytest.mark.parametrize("name", ["t5", "bert"])
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
}


def labels_for(name):
    return None if name in tiny.SEQUENCE_TO_SEQUENCE else NEW_LABELS


def make_new(name="bert", dtype=torch.float32, **options):
    model = make_model(name, dtype, **options)
    model.add_task(NEW, labels=labels_for(name))
    return model


def new_batch(name):
    batch = make_batch(name)
    return batch if labels_for(name) is None else batch | {"labels": batch["labels"] % len(NEW_LABELS)}


def outputs(model, name, with_new=True):
    """What every old task computes: alone, mixed, and mixed with the new task."""
    batch, was_training = make_batch(name), model.training
    model.eval()
    ids = {**batch, "labels": None} if labels_for(name) else batch
    mixed = [TASK_IDS, torch.tensor([0, 3, 1, 3, 2])] if with_new else [TASK_IDS]
    with torch.no_grad():
        found = [model(**ids, task=task).logits for task in TASKS]
        found += [model(**ids, task_ids=tasks).logits[tasks < len(TASKS)] for tasks in mixed]
    model.train(was_training)
    return found


def same(before, after):
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def train(model, name, make_optimizer=OPTIMIZERS["adamw"], steps=3, parameters=None):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(list(parameters or trained))
    model.train()
    for _ in range(steps):
        loss = model(**new_batch(name), task=NEW).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
