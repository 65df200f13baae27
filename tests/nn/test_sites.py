"""The wrappers around a backbone's layers."""

import pytest
import torch
from helpers.tiny import BACKBONES, TASK_IDS, make_batch, make_model
from torch.utils._python_dispatch import TorchDispatchMode

from hyperloader.nn.sites import LoraSite


class Counter(TorchDispatchMode):
    """Counts the calls of lora_linears, which lora_linear is a case of."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += "lora_linears." in str(function)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("name", BACKBONES)
def test_every_projection_is_one_call(name):
    model, batch = make_model(name), make_batch(name)
    sites = [module for module in model.backbone.modules() if isinstance(module, LoraSite)]
    with Counter() as counter, torch.no_grad():
        model(**batch, task_ids=TASK_IDS)
    assert counter.calls == len(sites) > 0


def test_a_family_without_these_sites(monkeypatch):
    from hyperloader.backbones import FAMILIES, bert

    sites = {"feed_forward": "output.dense", "self_attention.query": "attention.self.query"}
    monkeypatch.setattr(bert, "_SITES", sites)
    assert FAMILIES["bert"] is bert.stacks
    for lora_sites in ((), ("self_attention.query",)):
        model = make_model("bert", adapter_sites=("feed_forward",), lora_sites=lora_sites)
        assert model(**make_batch("bert"), task_ids=TASK_IDS).loss.isfinite()
