"""The drop-in controller beside the published one with the same parameters, and their comparison."""

import torch
from helpers import published_oracle as oracle
from helpers.published_oracle import leaves, make_config, randomise

from hyperloader.interop.published import AdapterLayersOneHyperNetController

LAYERS = 3
NORMS = [(False, True), (True, False), (True, True), (False, False)]  # before, after
TOLERANCE = 1e-5


def norms(before, after):
    return {"add_layer_norm_before_adapter": before, "add_layer_norm_after_adapter": after}


def both(num_layers=LAYERS, dtype=torch.float32, **changes):
    """The drop-in controller and the oracle's with the same parameters."""
    config = make_config(**changes)
    ours = randomise(AdapterLayersOneHyperNetController(config, num_layers)).to(dtype)
    theirs = oracle.AdapterLayersOneHyperNetController(config, num_layers).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def task(config=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(make_config().task_embedding_dim, generator=generator).to(dtype).requires_grad_()


def assert_same(ours, theirs):
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if expected is None:
            assert ours[name] is None, name
        else:
            assert ours[name].shape == expected.shape, name
            assert torch.allclose(ours[name], expected, rtol=TOLERANCE, atol=TOLERANCE), name


def gradients(controller, embedding, fields, layers=range(LAYERS)):
    """Gradients by name of a random linear function of every field of every layer."""
    generator, total = torch.Generator().manual_seed(7), 0.0
    for layer in layers:
        for name, tensor in leaves(controller(embedding, layer)).items():
            if tensor is not None and name.startswith(fields):
                total = total + (tensor * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)).sum()
    named = {"task": embedding, **dict(controller.named_parameters())}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, found, strict=True))


def assert_same_gradients(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = expected.abs().max().clamp_min(1).item()
        assert torch.allclose(ours[name], expected, rtol=TOLERANCE, atol=TOLERANCE * scale), name
