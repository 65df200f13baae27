"""A model whose memory is made later: built on the device meta, filled from a state."""

import pytest
import torch
from helpers import families, tiny
from helpers.tiny import TASK_IDS, config_for, logits, make_model

from hyperloader import HyperLoaderModel


def on_meta(name):
    with torch.device("meta"):
        return HyperLoaderModel(tiny.BACKBONES[name](), config_for(name, hypernetwork_per_stack=False))


@pytest.mark.parametrize("name", ["t5", "bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "nested"])
def test_a_model_filled_from_a_state_computes_the_same(name, nested):
    """Fresh memory is filled with the largest numbers there are, so that an index that nobody writes is seen."""
    source = make_model(name, torch.float32, hypernetwork_per_stack=False)
    model = on_meta(name)
    (torch.nn.ModuleList([model]) if nested else model).to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    assert torch.equal(logits(model.eval(), name, task_ids=TASK_IDS), logits(source, name, task_ids=TASK_IDS))
    merged, expected = model.merge("a"), source.merge("a")
    merged.to_empty(device="cpu").load_state_dict(expected.state_dict())
    assert torch.equal(logits(merged, name), logits(expected, name))
    model.detach()


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "phi3"])
def test_positions_of_decoders(name):
    """Frequencies of rotary positions and Gemma's scale of embeddings are in no state."""
    source = families.model_for(name, torch.float32)
    with torch.device("meta"):
        model = families.model_for(name, torch.float32)
    model.to_empty(device="cpu").load_state_dict(source.state_dict())
    batch = families.batch_for(source.backbone)
    with torch.no_grad():
        found, expected = (one(**batch, task_ids=families.TASK_IDS).logits for one in (model, source))
    assert torch.equal(found, expected)


def test_memory_that_was_there_is_emptied():
    source = make_model("bert", torch.float32)
    model = make_model("bert", torch.float32).to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    assert torch.equal(logits(model, "bert", task="a"), logits(source, "bert", task="a"))


def test_an_unknown_buffer_is_refused():
    model = on_meta("bert")
    model.backbone.register_buffer("inv_freq", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(RuntimeError, match="buffer inv_freq is in no state_dict and its values are lost"):
        model.to_empty(device="cpu")


def test_a_backbone_without_memory_is_neither_saved_nor_loaded_onto(tmp_path):
    make_model("bert", torch.float32).save_pretrained(tmp_path)
    with torch.device("meta"):
        backbone = tiny.BACKBONES["bert"]()
    with pytest.raises(ValueError, match="backbone must have its weights, got .* on the device meta: load them first"):
        HyperLoaderModel.from_pretrained(tmp_path, backbone)
    with pytest.raises(ValueError, match="must be a dense tensor with values, got .* on meta|on the device meta"):
        on_meta("bert").save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
