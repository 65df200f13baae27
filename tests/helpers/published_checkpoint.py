"""Checkpoints as the published code would write them, and a comparison of a whole model with the plain one."""

import json
from functools import partial

import torch
from helpers import published_oracle as oracle
from helpers.published_t5 import TASKS, PublishedT5, batch, classes

from hyperloader.interop.published import load_published_checkpoint

SAME = (
    ("condition.norm.weight", "LayerNorm.weight"),
    ("heads.up_bias.bias", "up_sampler_hyper_net.bias_generator.0.bias"),
    ("heads.down_weight.weight", "down_sampler_hyper_net.weight_generator.0.weight"),
)
load = partial(load_published_checkpoint, activation="gelu_new", train_norms=True)


def published(**changes):
    return PublishedT5(classes(oracle), **changes)


def write(folder, state, config=None):
    torch.save(state, folder / "pytorch_model.bin")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_same_model(model, theirs, tasks=TASKS):
    """Logits, gradients and generated tokens of every task."""
    assert model.hyperloader_config.tasks == tuple(tasks)
    assert not model.training
    config = model.hyperloader_config
    model.double(), theirs.double()  # of a float32 gradient, the fourth digit is the processor's
    for task in tasks:
        found, expected = model(task=task, **batch()), theirs(task, **batch())
        assert torch.allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
        model.zero_grad(), theirs.zero_grad()
        found.loss.backward(), expected.loss.backward()
        index = list(tasks).index(task)
        grad = theirs.embeddings[str(index)].grad  # of which theirs, too, moves in its fourth digit with the processor
        assert torch.allclose(
            model.task_embedding.weight.grad[index], grad, rtol=0, atol=5e-4 * grad.abs().max().item()
        )
        ours = dict(model.generators["decoder"].named_parameters())
        for name, other in SAME:
            if name not in ours and not config.condition_norm:
                continue
            grad = theirs.stacks["decoder"].get_parameter(other).grad
            assert torch.allclose(ours[name].grad, grad, rtol=1e-3, atol=1e-5 * grad.abs().max().item())
        options = {"input_ids": batch()["input_ids"], "max_new_tokens": 6, "do_sample": False}
        theirs.task = index
        assert torch.equal(model.generate(task=task, **options), theirs.backbone.generate(**options))
    model.float(), theirs.float()
