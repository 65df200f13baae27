"""A backbone that torch.compile has wrapped: names, states and paths are those of the plain one."""

import copy

import pytest
import torch
from helpers import tiny
from helpers.tiny import config_for, logits, make_model

from hyperloader import HyperLoaderModel, TaskModel


def compiled(module):
    return torch.compile(module, backend="eager")


def before(name):
    model = HyperLoaderModel(compiled(tiny.make(name)), config_for(name)).eval()
    tiny.randomise(model)
    return model


def after(name):
    model = make_model(name, torch.float32)
    model.backbone = compiled(model.backbone)
    return model


def inside(name):
    backbone = tiny.make(name)
    backbone.encoder = compiled(backbone.encoder)
    model = HyperLoaderModel(backbone, config_for(name)).eval()
    tiny.randomise(model)
    return model


def same(states, others):
    assert states.keys() == others.keys()
    return all(torch.equal(state, others[key]) for key, state in states.items())


@pytest.mark.parametrize("make", [before, after, inside])
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_saves_what_a_plain_backbone_would(make, name, tmp_path):
    model, plain = make(name), make_model(name, torch.float32)
    assert model.norm_names == plain.norm_names
    assert model.site_paths.keys() == plain.site_paths.keys()
    assert model.trainable_state().keys() == plain.trainable_state().keys()
    if make is not inside:
        assert model.state_dict().keys() == plain.state_dict().keys()
    model.save_pretrained(tmp_path)
    for backbone in (tiny.make(name), compiled(tiny.make(name))):
        loaded = HyperLoaderModel.from_pretrained(tmp_path, backbone)
        assert same(loaded.trainable_state(), model.trainable_state())
        assert loaded.detach() is backbone


def test_the_forward_is_the_compiled_one():
    model, graphs = make_model("bert", torch.float32), []
    expected = logits(model, "bert", task="a")

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model.backbone = torch.compile(model.backbone, backend=backend)
    torch.testing.assert_close(logits(model, "bert", task="a"), expected)
    assert graphs


def test_a_copy_has_a_backbone_of_its_own():
    model = after("bert")
    other = copy.deepcopy(model)
    assert other._compiled is not model._compiled
    assert other._compiled._orig_mod is other.backbone is not model.backbone


def test_merged_models_save_the_plain_names(tmp_path):
    model = after("bert")
    merged = model.merge("a")
    merged.backbone = compiled(merged.backbone)
    merged.save_pretrained(tmp_path)
    assert same(TaskModel.from_pretrained(tmp_path).state_dict(), merged.state_dict())
    model.merge("a", inplace=True)
    model.unmerge()
