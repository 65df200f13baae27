import importlib.metadata
import importlib.util
from pathlib import Path

import pytest
import torch
from helpers import families
from helpers.quantized import make, with_library
from torch import nn

from hyperloader.backbones.quantization import (
    LEAST,
    QUANTIZATIONS,
    check_quantization,
    layers_of,
    layers_to_quantize,
    quantize,
)

each_quantization = with_library(QUANTIZATIONS)


@each_quantization
@pytest.mark.parametrize("family", ["bert", "llama-tied"])
def test_the_linear_layers_of_the_stacks_are_quantised(family, quantization):
    backbone, before = make(family, None), make(family, None)
    named = layers_to_quantize(backbone, quantization)
    quantize(backbone, named)
    assert layers_of(backbone) == named
    linears = [path for path, one in before.named_modules() if type(one) is nn.Linear and ".0." in path]
    assert linears == [path for path in named if ".0." in path]
    assert not {"lm_head", "pooler.dense"} & named.keys()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        one, other = backbone(ids)[0], before(ids)[0]
    assert 0 < (one - other).abs().max() < 0.2
    state = backbone.state_dict()
    quantize(backbone, named)  # nothing is done twice
    assert state.keys() == backbone.state_dict().keys()


def test_what_transformers_keeps_in_float32_is_not_quantised():
    with torch.device("meta"):
        backbone = families.make("t5", d_model=64, d_kv=32, d_ff=128)
    named = layers_to_quantize(backbone, "bitsandbytes-nf4")
    assert "encoder.block.1.layer.0.SelfAttention.q" in named and "decoder.block.0.layer.2.DenseReluDense.wi" in named
    assert not [path for path in named if path.endswith(".wo")]


def test_what_cannot_be_quantised():
    with pytest.raises(
        ValueError, match="torchao-int4 must be of layers whose in_features are a multiple of 32, got 16"
    ):
        layers_to_quantize(families.make("bert"), "torchao-int4")
    with pytest.raises(ValueError, match="must be of a backbone with layers of nn.Linear, got GPT2LMHeadModel"):
        layers_to_quantize(families.make("gpt2"), "torchao-int8")
    with pytest.raises(ValueError, match="backbone_quantization must be one of .*did you mean 'torchao-int8'"):
        check_quantization("torchao-int9")


@with_library(["torchao-int8"])
def test_a_layer_is_quantised_once(quantization):
    backbone = make("bert", quantization)
    with pytest.raises(ValueError, match="encoder.layer.0.* must be a plain nn.Linear to be quantised as torchao-int4"):
        quantize(backbone, layers_of(backbone) | dict.fromkeys(layers_of(backbone), "torchao-int4"))


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_missing_library(monkeypatch, quantization):
    found = importlib.util.find_spec
    package = QUANTIZATIONS[quantization][0]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(
        ImportError, match=f"{quantization} needs {package}, .* run: pip install 'hyperloader.quantization.'"
    ):
        check_quantization(quantization)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_library_that_is_too_old(monkeypatch, quantization):
    package = QUANTIZATIONS[quantization][0]
    least = LEAST[package]
    assert f'"{package}>={least}"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for version in (f"{least}.1+cpu", "1.0"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        check_quantization(quantization)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.9.1")
    with pytest.raises(ImportError, match=f"needs {package} {least} or later, got 0.9.1; run: pip install 'hyper"):
        check_quantization(quantization)
