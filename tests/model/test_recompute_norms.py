"""``recompute_norms``: what LoRA reads is made again in the backward, with the same gradients and less memory."""

import copy
import pickle

import pytest
import torch
from helpers import tiny
from helpers.tiny import TASK_IDS, config_for, make_batch, make_model
from torch.multiprocessing.reductions import StorageWeakRef

from hyperloader import HyperLoaderModel, use_backend
from hyperloader.nn import norms, sites

each_kind = pytest.mark.parametrize("name", ["bert", "distilbert", "t5"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)


@pytest.fixture(autouse=True)
def any_number_is_many(monkeypatch):
    monkeypatch.setattr(norms, "MANY", 1)


def attach(name, dtype=torch.float32, **options):
    torch.manual_seed(3)
    return HyperLoaderModel(tiny.make(name, dtype), config_for(name, init="scaled", **options)).train()


def gradients(model, name, **arguments):
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
    model(**make_batch(name), **(arguments or {"task_ids": TASK_IDS})).loss.backward()
    return {path: parameter.grad.clone() for path, parameter in model.named_parameters() if parameter.requires_grad}


def check_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(grad, expected[path]) for path, grad in found.items())


def made_again(monkeypatch):
    """Counts the norms' outputs that are made again from now on."""
    calls = []
    original = norms._CastingNorm._cast
    monkeypatch.setattr(
        norms._CastingNorm,
        "_cast",
        lambda norm, x: (torch.is_grad_enabled() or calls.append(norm), original(norm, x))[1],
    )
    return calls


@each_dtype
@each_kind
def test_gradients_are_the_same_to_the_bit(name, dtype, monkeypatch):
    model = attach(name, dtype)
    expected = gradients(model, name)
    calls = made_again(monkeypatch)
    model.recompute_norms()
    check_same(gradients(model, name), expected)
    kept = name == "t5" and dtype == torch.bfloat16  # its RMSNorm keeps what it has cast
    assert bool(calls) != kept
    calls.clear()
    model.recompute_norms(False)
    check_same(gradients(model, name), expected)
    assert not calls


def test_query_and_value_share_what_is_made_again(monkeypatch):
    model = attach("bert")
    model.recompute_norms()
    calls = made_again(monkeypatch)
    gradients(model, "bert")
    assert len(calls) == model.backbone.config.num_hidden_layers


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_twice_through_one_graph(backend):
    with use_backend(backend):
        model = attach("bert")
        model.recompute_norms()
        loss = model(**make_batch("bert"), task_ids=TASK_IDS).loss
        first, second = (torch.autograd.grad(loss, model.task_embedding.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_second_derivatives_of_the_reference():
    found = []
    for enable in (False, True):
        with use_backend("reference"):
            model = attach("bert", torch.float64)
            model.backbone.set_attn_implementation("eager")
            model.recompute_norms(enable)
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            loss = model(**make_batch("bert"), task_ids=TASK_IDS).loss
            (grad,) = torch.autograd.grad(loss, model.task_embedding.weight, create_graph=True)
            found.append(torch.autograd.grad(grad.square().sum(), trained, allow_unused=True))
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@each_kind
def test_under_autocast(name):
    model = attach(name)
    found = []
    for enable in (False, True):
        model.recompute_norms(enable)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(model, name))
    check_same(*found)


def test_beside_a_layer_that_is_quantised(monkeypatch):
    model = attach("bert")
    for module in model.backbone.modules():
        if type(module) is sites.LoraSite:
            module.__class__ = sites.QuantizedLoraSite
    expected = gradients(model, "bert")
    calls = made_again(monkeypatch)
    model.recompute_norms()
    check_same(gradients(model, "bert"), expected)
    assert calls


@pytest.mark.parametrize("enable", [False, True])
def test_an_output_is_freed_in_the_forward(enable):
    model = attach("bert")
    model.recompute_norms(enable)
    outputs = []
    for layer in model.backbone.encoder.layer:
        layer.register_forward_hook(lambda *call: outputs.append(StorageWeakRef(call[-1].untyped_storage())))
    loss = model(**make_batch("bert"), task_ids=TASK_IDS).loss
    assert [one.expired() for one in outputs] == [enable, False]  # the heads read the last one
    loss.backward()


def test_an_output_that_was_changed_is_kept():
    model = attach("bert")
    for layer in model.backbone.encoder.layer:
        layer.output.register_forward_hook(lambda module, args, output: output.mul_(1.5))
    expected = gradients(model, "bert")
    model.recompute_norms()
    check_same(gradients(model, "bert"), expected)


def test_a_norm_that_is_changed_before_the_backward_raises():
    model = attach("bert")
    model.recompute_norms()
    loss = model(**make_batch("bert"), task_ids=TASK_IDS).loss
    with torch.no_grad():
        model.backbone.encoder.layer[0].output.LayerNorm.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"^a norm's input and weights must stay until the backward .* inplace"):
        loss.backward()


def test_a_copy_and_a_pickle_of_the_model_do_so_too(monkeypatch):
    model = attach("bert")
    expected = gradients(model, "bert")
    model.recompute_norms()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        calls = made_again(monkeypatch)
        check_same(gradients(other, "bert"), expected)
        assert calls


def test_a_compiler_decides_itself():
    model = attach("bert")
    expected = gradients(model, "bert")
    model.recompute_norms()
    model.forward = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    found = gradients(model, "bert")
    for path, grad in found.items():
        torch.testing.assert_close(grad, expected[path])


def test_without_gradients_nothing_is_noted(monkeypatch):
    model = attach("bert").eval()
    model.recompute_norms()
    calls = made_again(monkeypatch)
    with torch.no_grad():
        hidden = model(**make_batch("bert"), task_ids=TASK_IDS, output_hidden_states=True).hidden_states
    assert not any(hasattr(state, "_hyperloader_made_by") for state in hidden)
    assert not calls


def test_detach_leaves_nothing():
    model = attach("bert")
    model.recompute_norms()
    backbone = model.detach()
    assert not any("recomputed" in vars(module) for module in backbone.modules())


def test_what_is_refused():
    frozen = make_model("bert", train_norms=False)
    with pytest.raises(ValueError, match=r"^train_norms must be true for recompute_norms\(\), got norms that are not"):
        frozen.recompute_norms()
    frozen.recompute_norms(False)
    model = make_model("bert")
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"^recompute_norms\(\) and gradient checkpointing must not be enabled both"):
        model.recompute_norms()
    model.gradient_checkpointing_disable()
    model.recompute_norms()
    with pytest.raises(ValueError, match=r"^gradient checkpointing and recompute_norms\(\) must not be enabled both"):
        model.gradient_checkpointing_enable()
    model.recompute_norms(False)
    model.gradient_checkpointing_enable()
