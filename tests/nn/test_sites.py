"""The wrappers around a backbone's layers."""

import pytest
import torch
from helpers.tiny import BACKBONES, TASK_IDS, make_batch, make_model
from torch.utils._python_dispatch import TorchDispatchMode

from hyperloader.model.weight_provider import weights_for
from hyperloader.nn.sites import LoraSite


class Counter(TorchDispatchMode):
    """Counts the calls of lora_linears and the layers that they compute."""

    def __init__(self):
        super().__init__()
        self.layers: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "lora_linears." in str(function):
            self.layers.append(len(args[1]))
        return function(*args, **kwargs or {})


def lora_sites(model):
    return [module for module in model.backbone.modules() if isinstance(module, LoraSite)]


@pytest.mark.parametrize("name", BACKBONES)
def test_query_and_value_of_a_self_attention_are_one_call(name):
    model, batch = make_model(name), make_batch(name)
    batch["task_ids"] = TASK_IDS
    sites = lora_sites(model)
    pairs = sum(1 for site in sites if site.together)
    with Counter() as counter, torch.no_grad():
        together = model(**batch)
    assert counter.layers.count(2) == pairs > 0
    assert sum(counter.layers) == len(sites)

    for site in sites:
        site.together = ()
    with Counter() as counter, torch.no_grad():
        alone = model(**batch)
    assert counter.layers == [1] * len(sites)
    torch.testing.assert_close(together.logits, alone.logits)


def test_a_value_that_is_given_another_tensor_computes_its_own():
    model = make_model("bert")
    attention = model.backbone.encoder.layer[0].attention.self
    x, other = torch.randn(2, 2, 3, 16, dtype=torch.float64)
    with model._active.use(weights_for(model, 0)), torch.no_grad():
        expected = attention.value(other)
        attention.query(x)
        torch.testing.assert_close(attention.value(other), expected)
        attention.query(other)
        with Counter() as counter:
            torch.testing.assert_close(attention.value(other), expected)
        assert counter.layers == []


def test_a_value_computes_its_own_after_a_write_or_another_grad_mode():
    model = make_model("bert")
    attention = model.backbone.encoder.layer[0].attention.self
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    with model._active.use(weights_for(model, 0)):
        with torch.no_grad():
            attention.query(x)
            x.add_(1)
            found = attention.value(x)
            torch.testing.assert_close(found, attention.value(x.clone()))
            attention.query(x)
        assert attention.value(x).requires_grad


@pytest.mark.parametrize("change", ["dtype", "bias"])
def test_layers_that_differ_are_computed_apart(change):
    model, batch = make_model("bert", dtype=torch.bfloat16), make_batch("bert")
    batch["task_ids"] = TASK_IDS
    for layer in model.backbone.encoder.layer:
        value = layer.attention.self.value
        if change == "dtype":
            value.linear.weight.data = value.linear.weight.data.float()
        else:
            value.linear.bias = None
    with Counter() as counter, torch.no_grad():
        assert model(**batch).logits.isnan().sum() == 0
    assert counter.layers == [1] * 4


def test_what_is_not_taken_is_not_kept():
    model = make_model("bert")
    weights = weights_for(model, 0)
    with model._active.use(weights), torch.no_grad():
        model.backbone.encoder.layer[0].attention.self.query(torch.randn(2, 3, 16, dtype=torch.float64))
        assert weights._ready
    assert not weights._ready


def test_a_family_without_these_sites(monkeypatch):
    from hyperloader.backbones import FAMILIES, bert

    sites = {"feed_forward": "output.dense", "self_attention.query": "attention.self.query"}
    monkeypatch.setattr(bert, "_SITES", sites)
    assert FAMILIES["bert"] is bert.stacks
    for lora_sites in ((), ("self_attention.query",)):
        model = make_model("bert", adapter_sites=("feed_forward",), lora_sites=lora_sites)
        assert model(**make_batch("bert"), task_ids=TASK_IDS).loss.isfinite()
