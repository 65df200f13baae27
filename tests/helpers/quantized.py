"""Small backbones whose linear layers are quantised, and all the quantisations as parameters."""

import importlib.util

import pytest
import torch
from helpers import families

from hyperloader.backbones.quantization import QUANTIZATIONS, layers_to_quantize, quantize

SIZES = {"hidden_size": 64, "intermediate_size": 128}
WEIGHT_ONLY = [name for name in QUANTIZATIONS if name != "torchao-int8-dynamic"]  # in training, on the CPU


def with_library(names):
    """``names`` as parameters; those whose library is not installed are skipped."""
    marked = []
    for name in names:
        package = QUANTIZATIONS[name][0]
        missing = importlib.util.find_spec(package) is None
        marked.append(pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{package} is not installed")))
    return pytest.mark.parametrize("quantization", marked)


def make(family: str, quantization: str | None, dtype: torch.dtype = torch.float32):
    """The backbone of a family, without dropout, with the same weights every time."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if family == "bert" else {}
    backbone = families.make(family, dtype, **SIZES, **dropout)
    if quantization is not None:
        quantize(backbone, layers_to_quantize(backbone, quantization))
    return backbone


def model_for(family: str, quantization: str | None, backbone=None, **options):
    """A model on it; its heads have no dropout."""
    backbone = make(family, quantization) if backbone is None else backbone
    return families.model_for(family, torch.float32, backbone, **options)
