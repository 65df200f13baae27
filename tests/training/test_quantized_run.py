"""Runs whose backbone is quantised."""

import dataclasses
import importlib.util
import json

import pytest
import yaml
from helpers.quantized import with_library

from hyperloader.backbones.quantization import layers_of
from hyperloader.model import HyperLoaderModel
from hyperloader.training.exporting import export_run
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig
from hyperloader.training.saved_run import evaluate, load_run, predict


@with_library(["torchao-int8", "torchao-int8-dynamic", "bitsandbytes-nf4"])
def test_a_run_from_training_to_export(settings, tmp_path, quantization):
    config = settings(backbone_quantization=quantization)
    metrics = train(config, progress=False)
    assert evaluate(config.output, "test") == metrics["test"]
    plain = train(settings(output=str(tmp_path / "plain")), progress=False, test=False)
    counts = [(one["trainable_parameters"], one["parameters"]) for one in (metrics, plain)]
    assert counts[0] == counts[1]
    assert f"{counts[0][1]:,} in all" in (tmp_path / "run" / "README.md").read_text()
    run = load_run(config.output)
    assert set(layers_of(run.hyperloader.backbone).values()) == {quantization}
    assert run.config.backbone_quantization == quantization
    words = ["show", "me", "dark", "red", "shirts"]
    (tags,) = predict(run, [words], "colours")
    assert len(tags) == len(words)
    assert train(config, resume=True) == json.loads((tmp_path / "run" / "metrics.json").read_text())
    again = HyperLoaderModel.from_pretrained(tmp_path / "run" / "best")
    assert layers_of(again.backbone) == layers_of(run.hyperloader.backbone)
    with pytest.raises(ValueError, match=f"format must be ours or peft for a run with .* {quantization}, got onnx"):
        export_run(config.output, tmp_path / "onnx", "onnx" if importlib.util.find_spec("onnx") else "torch-export")
    export_run(config.output, tmp_path / "ours", "ours", "colours")
    alone = HyperLoaderModel.from_pretrained(tmp_path / "ours")
    assert set(layers_of(alone.backbone).values()) == {quantization}


def test_it_is_written_where_it_is_given_alone(settings):
    assert "backbone_quantization" not in settings().to_yaml()
    config = settings(backbone_quantization="torchao-int8")
    assert RunConfig.from_dict(yaml.safe_load(config.to_yaml())) == config


def test_what_a_run_cannot_quantise_is_said_first(settings, monkeypatch):
    with pytest.raises(ValueError, match="methods hyperloader, hyperformer.., adapter, got full"):
        settings(backbone_quantization="torchao-int8", method="full")
    with pytest.raises(ValueError, match="backbone_quantization must be one of .*, got 'int8'"):
        settings(backbone_quantization="int8")
    config = settings(backbone_quantization="torchao-int4")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else found(name))
    with pytest.raises(ImportError, match="needs torchao, .* run: pip install .hyperloader.quantization"):
        train(dataclasses.replace(config, tasks="/no/such/file.yaml"), progress=False)


@with_library(["torchao-int4"])
def test_sizes_are_checked_before_the_data_are_read(settings, tmp_path, quantization):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=6, **narrow)).save_pretrained(tmp_path / "narrow")
    (tmp_path / "narrow" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    BertTokenizerFast(str(tmp_path / "narrow" / "vocab.txt")).save_pretrained(tmp_path / "narrow")
    entry = [{"name": "a", "path": "/no/such/folder"}]
    config = settings(backbone=str(tmp_path / "narrow"), tasks=entry, backbone_quantization=quantization)
    with pytest.raises(ValueError, match="in_features are a multiple of 32, got 16 at encoder.layer.0"):
        train(config, progress=False)
