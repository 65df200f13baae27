"""Backbones of no known family: sites by the paths of their layers, and the proposal of them."""

import pytest
import torch
import transformers
from helpers.families import TASK_IDS, TASKS, batch_for, make, model_for, sentence

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel
from hyperloader.backbones import find_stacks
from hyperloader.backbones.proposal import linear_layers, proposed_sites

LLAMA = {
    "feed_forward": "model.layers.*.mlp.down_proj",
    "self_attention": "model.layers.*.self_attn.o_proj",
    "self_attention.query": "model.layers.*.self_attn.q_proj",
    "self_attention.value": "model.layers.*.self_attn.v_proj",
}
GPT2 = {
    "feed_forward": "transformer.h.*.mlp.c_proj",
    "self_attention": "transformer.h.*.attn.c_proj",
    "self_attention.query": "transformer.h.*.attn.c_attn[0:16]",
    "self_attention.value": "transformer.h.*.attn.c_attn[32:48]",
}
_SIZES = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
_MARIAN = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
_MARIAN |= {"vocab_size": 50, "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "pad_token_id": 0}
UNKNOWN = {
    "OPTForCausalLM": _SIZES | {"word_embed_proj_dim": 16, "ffn_dim": 32, "pad_token_id": 0},
    "GPTNeoXForCausalLM": _SIZES | {"intermediate_size": 32},
    "MarianMTModel": _MARIAN | {"decoder_start_token_id": 0, "eos_token_id": 1, "forced_eos_token_id": None},
}


def unknown(name):
    torch.manual_seed(1)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**UNKNOWN[name])).double().eval()


@pytest.mark.parametrize(("name", "sites"), [("llama", LLAMA), ("gpt2", GPT2)])
def test_the_patterns_of_a_family_are_the_family(name, sites):
    by_family, by_sites = model_for(name), model_for(name, sites=sites)
    batch = batch_for(by_family.backbone)
    with torch.no_grad():
        found, expected = (model(**batch, task_ids=TASK_IDS).logits for model in (by_sites, by_family))
    assert torch.equal(found, expected)
    assert list(by_sites.generators) == ["layers" if name == "llama" else "h"]


def test_one_pattern_with_and_without_the_head():
    backbone = make("llama")
    patterns = HyperLoaderConfig(tasks=["a"], sites=LLAMA).sites
    (stack,), (base,) = find_stacks(backbone, patterns), find_stacks(backbone.model, patterns)
    assert stack.name == base.name == "layers"
    assert [f"model.{path}" for path in base.layers[1].values()] == list(stack.layers[1].values())
    without = {site: (path.removeprefix("model."),) for site, path in LLAMA.items()}
    assert find_stacks(backbone, without) == [stack]


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_proposal_makes_a_model(name, tmp_path):
    """Mixed, merged, saved and loaded, as a model of any known family."""
    backbone = unknown(name)
    sites = proposed_sites(linear_layers(backbone))
    model = model_for(name, backbone=backbone, sites=sites)
    assert len(model.generators) == (2 if name == "MarianMTModel" else 1)
    batch = batch_for(backbone)
    with torch.no_grad():
        if name != "GPTNeoXForCausalLM":
            batch.pop("position_ids", None)  # which OPT makes of the mask
        mixed = model(**batch, task_ids=TASK_IDS).logits
        for row, task in enumerate(TASK_IDS.tolist()):
            alone = model(**sentence(batch, row), task=TASKS[task]).logits[0]
            torch.testing.assert_close(mixed[row][-len(alone) :], alone, rtol=0, atol=1e-10)
        expected, real = model(**batch, task="b").logits, batch["labels"] != -100
        model.merge("b").save_pretrained(tmp_path / "merged")
        model.save_pretrained(tmp_path / "model")
        for again, selected in (
            (TaskModel.from_pretrained(tmp_path / "merged"), {}),
            (HyperLoaderModel.from_pretrained(tmp_path / "model", unknown(name)), {"task": "b"}),
        ):
            found = again(**batch, **selected).logits
            torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"self_attention.query": "model.layers.*.self_attn.q_prj"},
         "must match layers of LlamaForCausalLM, got 'model.layers.*.self_attn.q_prj', which matches none; did you "
         "mean 'model.layers.*.self_attn.q_proj'?"),
        ({"self_attention.query": "model.layers.0.self_attn.q_proj"}, "must be a path with one * such as"),
        ({"self_attention.query": "model.layers.*.self_attn"}, "must have a plain nn.Linear at"),
        ({"self_attention.query": "model.layers.*.self_attn.q_proj[8:20]"}, "must be of the outputs [0:16] of"),
        ({"self_attention.query": "model.layers.*.self_attn.v_proj"},
         "sites must not share outputs, got self_attention.query and self_attention.value for the same ones of"),
        ({"feed_forward": "model.layers.*.mlp.down_proj[0:8]"}, "must be all outputs, for an adapter"),
        ({"self_attention.query": ["model.layers.*.self_attn.q_proj", "layers.*.self_attn.k_proj"]},
         "must name each layer once, got two for layers.0"),
    ],
)  # fmt: skip
def test_refused(change, message):
    with pytest.raises(ValueError) as error:
        model_for("llama", sites=LLAMA | change)
    assert message in str(error.value)


def test_layers_without_a_site_are_refused():
    backbone = make("llama")
    del backbone.model.layers[1].self_attn.q_proj
    with pytest.raises(ValueError, match="must match every layer of layers, got none in layer 1"):
        find_stacks(backbone, {site: (path,) for site, path in LLAMA.items()})


@pytest.mark.parametrize(
    ("sites", "error", "message"),
    [
        ({}, TypeError, "sites must map sites to paths of layers, got {}"),
        (["a"], TypeError, "sites must map sites to paths of layers"),
        ({"self_attention.qery": "a.*.b"}, ValueError, "did you mean 'self_attention.query'"),
        ({"self_attention.query": 3}, TypeError, r"sites\['self_attention.query'\] must be a list of strings, got 3"),
        ({"self_attention.key": "a.*.b"}, ValueError, "lora_sites must name 'self_attention.key' of sites, got"),
    ],
)
def test_config(sites, error, message):
    with pytest.raises(error, match=message):
        HyperLoaderConfig(tasks=["a"], sites=sites)
