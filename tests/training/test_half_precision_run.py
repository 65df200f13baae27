"""Runs whose backbone is in half precision."""

import pytest
import torch
import yaml
from helpers.quantized import with_library

from hyperloader.model import HyperLoaderModel
from hyperloader.training.backbone import load_backbone
from hyperloader.training.exporting import export_run
from hyperloader.training.presets import training_options
from hyperloader.training.requirements import check_requirements
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig
from hyperloader.training.saved_run import evaluate, load_run


def dtypes(model):
    """Of what is trained, and of the rest."""
    trained = model.trainable_state()
    return (
        {tensor.dtype for tensor in trained.values() if tensor.is_floating_point()},
        {one.dtype for name, one in model.named_parameters() if name not in trained and one.is_floating_point()},
    )


@pytest.mark.parametrize("head", ["token-classification", "text-to-text"])
def test_a_run_from_training_to_loading(settings, t5, tmp_path, head):
    of_head = {"backbone": str(t5), "head": head} if head == "text-to-text" else {}
    config = settings(backbone_dtype="bfloat16", **of_head)
    metrics = train(config, progress=False)
    assert evaluate(config.output, "test") == metrics["test"]
    assert dtypes(load_run(config.output).model) == ({torch.float32}, {torch.bfloat16})
    assert dtypes(HyperLoaderModel.from_pretrained(tmp_path / "run" / "best"))[1] == {torch.bfloat16}
    assert train(config, resume=True)["test"] == metrics["test"]
    refused = {
        "token-classification": "must be float32 for the format torch-export, got bfloat16; the others take",
        "text-to-text": "must be token-classification for the format torch-export, got text-to-text",
    }
    with pytest.raises(ValueError, match=refused[head]):
        export_run(config.output, tmp_path / "program", "torch-export")


@with_library(["torchao-int8"])
def test_quantised_and_half(settings, quantization):
    config = settings(backbone_quantization=quantization, backbone_dtype="bfloat16")
    metrics = train(config, progress=False)
    assert evaluate(config.output, "test") == metrics["test"]
    assert dtypes(load_run(config.output).model)[0] == {torch.float32}


def test_what_t5_needs_in_float32_stays_so(t5, tmp_path):
    backbone, _ = load_backbone(str(t5), "text-to-text", dtype="float16")
    kept = {name for name, one in backbone.named_parameters() if one.dtype == torch.float32}
    assert kept == {name for name, _ in backbone.named_parameters() if name.endswith(".wo.weight")} != set()


def test_it_is_written_where_it_is_another_alone(settings):
    assert "backbone_dtype" not in settings().to_yaml()
    config = settings(backbone_dtype="bfloat16")
    assert RunConfig.from_dict(yaml.safe_load(config.to_yaml())) == config


def test_what_is_refused(settings, monkeypatch):
    with pytest.raises(ValueError, match="backbone_dtype must be one of float32, bfloat16, float16, got 'half'"):
        settings(backbone_dtype="half")
    with pytest.raises(ValueError, match="backbone_dtype must be given for the methods hyperloader, .*, got full"):
        settings(backbone_dtype="bfloat16", method="full")
    with pytest.raises(ValueError, match=r"bfloat16 without training.fp16, which scales the loss, got float16"):
        settings(backbone_dtype="float16")
    with pytest.raises(ValueError, match="fp16 must be false with bf16, got both"):
        training_options("default", "hyperloader", {"bf16": True, "fp16": True})
    config = settings(backbone_dtype="float16", training={"steps": 2, "fp16": True})
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(
        ValueError,
        match=r"training.fp16 must be false without a GPU, got true; take bf16 and backbone_dtype: bfloat16$",
    ):
        check_requirements(config)
