"""`hyperloader backbones`."""

import pytest
import yaml
from transformers import OPTConfig, OPTForCausalLM

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.backbones import FAMILIES


@pytest.fixture
def folder(tmp_path):
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "num_attention_heads": 2, "ffn_dim": 32}
    OPTForCausalLM(OPTConfig(**sizes, num_hidden_layers=2, vocab_size=50)).save_pretrained(tmp_path)
    return tmp_path


def test_what_is_known(call):
    lines = call("backbones").stdout.splitlines()
    assert {line.split()[0] for line in lines[2 : 2 + len(FAMILIES)]} == set(FAMILIES)


def test_a_proposal_that_can_be_used(call, folder):
    text = call("backbones", folder).stdout
    assert "OPTForCausalLM of type opt: not known" in text
    assert "model.decoder.layers.*.fc1" in text
    options = yaml.safe_load(text[text.index("model:") :])["model"]
    config = HyperLoaderConfig(tasks=["a"], bottleneck=2, **options)
    model = HyperLoaderModel(OPTForCausalLM.from_pretrained(folder), config)
    assert set(options["sites"]) == {site for _, _, site in model.eval().weights_of("a")}


def test_bad_folders(fails, tmp_path):
    assert "backbone must be a folder" in fails("backbones", "./nowhere")
    assert f"backbone {tmp_path}: " in fails("backbones", tmp_path)
