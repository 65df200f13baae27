"""DeBERTa's relative positions, which a layer's query projects too."""

import copy
import pickle

import pytest
import torch
from helpers.families import TASK_IDS, TASKS, batch_for, make, model_for
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from hyperloader import HyperLoaderModel

each_kind = pytest.mark.parametrize("name", ["deberta-v2", "deberta-v2-own-positions", "deberta-v3"])


def attentions(backbone):
    return [module for module in backbone.modules() if isinstance(module, DisentangledSelfAttention)]


@torch.no_grad()
def logits(model, **selected):
    return model(**batch_for(model.backbone) | {"labels": None}, **selected).logits


def lora_alone(name):
    return model_for(name, adapter_sites=(), train_norms=False, labels=None)


@each_kind
def test_an_update_is_that_of_the_weight_wherever_the_backbone_uses_it(name):
    """PEFT's way: a model whose query has the updated weight."""
    model = lora_alone(name)
    batch = {key: one for key, one in batch_for(model.backbone).items() if key != "labels"}
    with torch.no_grad():
        mixed = model(**batch, task_ids=TASK_IDS)[0]
        for row, task in enumerate(TASK_IDS.tolist()):
            plain = make(name)
            for (_, layer, site), (lora_A, lora_B) in model.weights_of(TASKS[task]).items():
                projection = getattr(attentions(plain)[layer], site.removeprefix("self_attention.") + "_proj")
                projection.weight += model.hyperloader_config.scaling * lora_B @ lora_A
            torch.testing.assert_close(mixed[row], plain(**batch)[0][row], rtol=0, atol=1e-10)


@each_kind
def test_one_task_by_name_and_by_ids(name):
    model = model_for(name)
    for task, one in enumerate(TASKS):
        found = logits(model, task_ids=torch.full((len(TASK_IDS),), task))
        wanted = logits(model, task=one)
        torch.testing.assert_close(found[..., : wanted.shape[-1]], wanted, rtol=0, atol=1e-10)


@each_kind
def test_the_backbone_is_given_back_as_it_was(name):
    backbone = make(name)
    before = [type(one) for one in attentions(backbone)]
    model = model_for(name, backbone=backbone)
    assert model.detach() is backbone
    assert [type(one) for one in attentions(backbone)] == before
    assert type(attentions(backbone)[0]) is DisentangledSelfAttention


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_computes_the_same(again):
    model = model_for("deberta-v3")
    wanted = logits(model, task_ids=TASK_IDS)
    assert torch.equal(logits(again(model), task_ids=TASK_IDS), wanted)
    merged = model.merge("c")
    assert torch.equal(logits(again(merged)), logits(merged))


def test_gradients_are_those_of_the_sentences():
    model = model_for("deberta-v3").eval()
    trained = [one for one in model.parameters() if one.requires_grad]
    batch = batch_for(model.backbone) | {"labels": None}
    weight = torch.linspace(-1, 1, 16, dtype=torch.float64)

    def hidden(rows, **selected):
        part = {key: one if one is None else one[rows] for key, one in batch.items()}
        return model(**part, **selected, output_hidden_states=True).hidden_states[-1] @ weight

    mixed = torch.autograd.grad(hidden(slice(None), task_ids=TASK_IDS).square().sum(), trained, allow_unused=True)
    losses = [
        hidden(slice(row, row + 1), task=TASKS[task]).square().sum() for row, task in enumerate(TASK_IDS.tolist())
    ]
    alone = torch.autograd.grad(sum(losses), trained, allow_unused=True)
    for one, other in zip(mixed, alone, strict=True):
        if one is not None and one.any():
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_autocast():
    model = model_for("deberta-v3", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = logits(model, task_ids=TASK_IDS)
    wanted = logits(model, task_ids=TASK_IDS)
    real = wanted.isfinite()
    assert (found.float() - wanted)[real].abs().max() < 0.1 * wanted[real].abs().max()


def test_exported_to_peft(tmp_path):
    from peft import PeftModel

    model = lora_alone("deberta-v3")
    batch = {key: one for key, one in batch_for(model.backbone).items() if key != "labels"}
    model.export_peft("c", tmp_path)
    with torch.no_grad():
        wanted = model(**batch, task="c")[0]
        loaded = PeftModel.from_pretrained(make("deberta-v3"), tmp_path, autocast_adapter_dtype=False).eval()
        torch.testing.assert_close(loaded(**batch)[0], wanted, rtol=0, atol=1e-6)  # the file holds float32


def test_a_model_without_lora():
    backbone = make("deberta-v3")
    batch = {key: one for key, one in batch_for(backbone).items() if key != "labels"}
    with torch.no_grad():
        wanted = backbone(**batch)[0]
    model = model_for("deberta-v3", backbone=backbone, lora_sites=(), init="scaled", labels=None)
    assert isinstance(model, HyperLoaderModel)
    with torch.no_grad():
        assert torch.equal(model(**batch, task_ids=TASK_IDS)[0], wanted)
