"""A backbone that torch.compile has wrapped: names, states and paths are those of the plain one."""

import copy

import pytest
import tiny
import torch
from tiny import LABELS, TASKS, make_batch, make_model

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel


def compiled(module):
    return torch.compile(module, backend="eager")


def before(name):
    config = HyperLoaderConfig(tasks=TASKS, labels=None if name == "t5" else LABELS, reduction_factor=4, rank=2)
    model = HyperLoaderModel(compiled(tiny.make(name)), config).eval()
    tiny.randomise(model)
    return model


def after(name):
    model = make_model(name, torch.float32)
    model.backbone = compiled(model.backbone)
    return model


def inside(name):
    backbone = tiny.make(name)
    backbone.encoder = compiled(backbone.encoder)
    config = HyperLoaderConfig(tasks=TASKS, labels=None if name == "t5" else LABELS, reduction_factor=4, rank=2)
    model = HyperLoaderModel(backbone, config).eval()
    tiny.randomise(model)
    return model


@torch.no_grad()
def logits(model, name, **which):
    batch = make_batch(name)
    return model(**batch | ({} if name == "t5" else {"labels": None}), **which).logits


@pytest.mark.parametrize("make", [before, after, inside])
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_saves_what_a_plain_backbone_would(make, name, tmp_path):
    model, plain = make(name), make_model(name, torch.float32)
    assert model.norm_names == plain.norm_names
    assert model.site_paths.keys() == plain.site_paths.keys()
    assert model.trainable_state().keys() == plain.trainable_state().keys()
    if make is not inside:
        assert model.state_dict().keys() == plain.state_dict().keys()
    expected = logits(model, name, task="a")
    model.save_pretrained(tmp_path)
    for backbone in (tiny.make(name), compiled(tiny.make(name))):
        loaded = HyperLoaderModel.from_pretrained(tmp_path, backbone)
        torch.testing.assert_close(logits(loaded, name, task="a"), expected, rtol=1e-5, atol=1e-6)
        assert loaded.detach() is backbone


@pytest.mark.parametrize("make", [before, after])
def test_the_forward_is_the_compiled_one(make):
    model, calls = make("bert"), []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model.backbone = torch.compile(model.backbone, backend=backend)
    logits(model, "bert", task="a")
    assert calls


def test_copies_are_of_one_piece():
    model = after("bert")
    other = copy.deepcopy(model)
    expected = logits(model, "bert", task="a")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not logits(other, "bert", task="a").any(), "a copy runs its own backbone"
    assert torch.equal(logits(model, "bert", task="a"), expected)


def test_merged_models_save_the_plain_names(tmp_path):
    model = after("bert")
    merged = model.merge("a")
    merged.backbone = compiled(merged.backbone)
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(TaskModel.from_pretrained(tmp_path), "bert"), logits(merged, "bert"))
    model.merge("a", inplace=True)
    model.unmerge()
