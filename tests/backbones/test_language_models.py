"""Encoders with a masked language model's head: as a backbone, and as a checkpoint that an encoder is loaded from."""

import pytest
import torch
import transformers
from helpers import families
from helpers.families import LABELS, TASK_IDS, TASKS, batch_for

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel
from hyperloader.backbones.origin import quiet

FAMILIES = {  # class without MaskedLM -> the family of its sizes
    "Albert": "albert",
    "Camembert": "camembert",
    "DebertaV2": "deberta-v3",
    "MPNet": "mpnet",
    "XLMRobertaXL": "xlm-roberta-xl",
}


@pytest.fixture(params=FAMILIES)
def saved(request, tmp_path):
    """A masked language model's class and folder, and a batch."""
    kind = getattr(transformers, f"{request.param}ForMaskedLM")
    _, sizes = families.FAMILIES[FAMILIES[request.param]]
    torch.manual_seed(1)
    backbone = kind(kind.config_class(**sizes)).eval()
    assert backbone.get_output_embeddings().weight is backbone.get_input_embeddings().weight
    with quiet():
        backbone.save_pretrained(tmp_path / "backbone")
    batch = {name: tensor for name, tensor in batch_for(backbone.base_model).items() if name != "labels"}
    return kind, tmp_path, batch


@torch.no_grad()
def logits(model, batch, **selected):
    return model(**batch, **selected).logits


def test_used_as_it_is_merged_saved_and_loaded(saved):
    kind, folder, batch = saved
    backbone = kind.from_pretrained(folder / "backbone")
    wanted = logits(backbone, batch)
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, init="scaled", reduction_factor=4))
    assert torch.equal(logits(model, batch, task_ids=TASK_IDS), wanted)
    model.save_pretrained(folder / "model")
    assert torch.equal(logits(HyperLoaderModel.from_pretrained(folder / "model"), batch, task="a"), wanted)
    merged = model.eval().merge("a")
    merged.save_pretrained(folder / "merged")
    loaded = TaskModel.from_pretrained(folder / "merged")
    assert loaded.backbone.get_output_embeddings().weight is loaded.backbone.get_input_embeddings().weight
    torch.testing.assert_close(logits(loaded, batch), wanted)


def test_its_base_model_with_heads(saved):
    kind, folder, batch = saved
    with quiet():
        backbone = transformers.AutoModel.from_pretrained(folder / "backbone")
    with torch.no_grad():
        states = kind.from_pretrained(folder / "backbone").base_model(**batch).last_hidden_state
        assert torch.equal(backbone(**batch).last_hidden_state, states)
    config = HyperLoaderConfig(tasks=TASKS, labels=LABELS, init="scaled", reduction_factor=4)
    model = HyperLoaderModel(backbone, config).eval()
    model.save_pretrained(folder / "model")
    loaded = HyperLoaderModel.from_pretrained(folder / "model")
    assert not any("pooler" in name for name in loaded.state_dict())
    assert torch.equal(logits(loaded, batch, task_ids=TASK_IDS), logits(model, batch, task_ids=TASK_IDS))
