import pytest
import torch
from torch import nn

from hyperloader.training.weights import load_weights, save_trained


def test_only_what_is_trained_is_saved_and_only_that_fits(tmp_path):
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    model.bias.requires_grad_(False)
    other.bias.requires_grad_(False)
    save_trained(model, tmp_path)
    load_weights(other, tmp_path)
    assert torch.equal(model.weight, other.weight)
    assert not torch.equal(model.bias, other.bias)
    with pytest.raises(ValueError, match="trained.safetensors: tensors missing: bias; extra: none"):
        load_weights(nn.Linear(2, 3), tmp_path)
    wider = nn.Linear(3, 3)
    wider.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"weight must have shape \(3, 3\), got \(3, 2\)"):
        load_weights(wider, tmp_path)
