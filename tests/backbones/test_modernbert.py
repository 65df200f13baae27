"""ModernBERT with and without LoRA: its query and value are parts of one projection."""

import pytest
import torch
from helpers.families import LABELS, TASK_IDS, TASKS
from transformers import ModernBertConfig, ModernBertModel

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1}
SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


def make(dtype=torch.float64):
    torch.manual_seed(1)
    return ModernBertModel(ModernBertConfig(vocab_size=50, local_attention=4, **SIZES, **IDS)).to(dtype).eval()


def attach(backbone, **options):
    values = {"tasks": TASKS, "labels": LABELS, "reduction_factor": 4, "lora_sites": ()} | options
    model = HyperLoaderModel(backbone, HyperLoaderConfig(**values)).eval()
    if "init" not in options:
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 0, 0.3)
    return model.to(backbone.dtype)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    mask = (torch.arange(40) < torch.tensor([40, 9, 1, 21])[:, None]).long()
    return {"input_ids": torch.randint(2, 50, mask.shape) * mask, "attention_mask": mask}


@torch.no_grad()
def test_a_new_model_is_its_backbone_to_the_bit(batch):
    backbone = make(torch.float32)
    expected = backbone(**batch)[0]
    model = attach(backbone, init="scaled", labels=None)
    assert torch.equal(model(**batch, task_ids=TASK_IDS)[0], expected)
    assert torch.equal(model.detach()(**batch)[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("lora_sites", [(), ("self_attention.query", "self_attention.value")])
def test_a_mixed_batch_is_its_sentences_merged_saved_and_loaded(batch, tmp_path, lora_sites):
    """Sentences longer than the sliding window, one token, padding."""
    model = attach(make(), lora_sites=lora_sites)
    mixed = model(**batch, task_ids=TASK_IDS).logits
    for row, task in enumerate(TASK_IDS.tolist()):
        length = int(batch["attention_mask"][row].sum())
        ids, name = batch["input_ids"][row : row + 1, :length], TASKS[task]
        alone = model(input_ids=ids, task=name).logits[0]
        torch.testing.assert_close(mixed[row, :length, : alone.shape[-1]], alone, rtol=0, atol=1e-10)
        merged = model.merge(name)
        merged.save_pretrained(tmp_path / name)
        for one in (merged, TaskModel.from_pretrained(tmp_path / name)):
            torch.testing.assert_close(one(input_ids=ids).logits[0], alone, rtol=0, atol=1e-10)
    model.save_pretrained(tmp_path / "model")
    loaded = HyperLoaderModel.from_pretrained(tmp_path / "model", make())
    assert torch.equal(loaded(**batch, task_ids=TASK_IDS).logits, mixed)


def test_one_graph_and_gradient_checkpointing(batch):
    model = attach(make())
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**batch, task_ids=TASK_IDS).logits, model(**batch, task_ids=TASK_IDS).logits)
    trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    found = []
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable()
        loss = model(**batch, task_ids=TASK_IDS).logits.clamp(min=-9).square().mean()
        found.append(torch.autograd.grad(loss, trained, allow_unused=True))
    torch.testing.assert_close(*found)
