"""The baselines compute what our model computes, with the very same parameters."""

import pytest
import torch
from helpers import tiny

from bench.baselines import plain, published
from bench.baselines.models import BaselineModel, PlainModel, PublishedModel
from bench.baselines.peft import PeftModel, PeftTasksModel
from hyperloader.ops import use_backend

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
MODELS = ("bert", "distilbert", "t5", "t5-gated")


def make(name, dtype=torch.float32, **options):
    """One of our models, the same every time."""
    return tiny.make_model(name, dtype, **{"rank": 8, "lora_alpha": 8} | options)


def assert_close(result, expected):
    assert (result - expected).norm() <= TOLERANCE[expected.dtype] * expected.norm()


def gradients(loss, trained):
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(trained, found, strict=True))


def assert_same_gradients(found, expected):
    """Each in float64; all together in float32, where small sums of large terms have few digits left."""
    assert found.keys() == expected.keys()
    if next(iter(expected.values())).dtype == torch.float64:
        for key, gradient in found.items():
            assert_close(gradient, expected[key])
    together = [torch.cat([grads[key].flatten() for key in expected]) for grads in (found, expected)]
    assert_close(*together)


def of_ours(name, dtype, **which):
    model = make(name, dtype)
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    with use_backend("reference"):
        outputs = model(**batch(name), **which)
        return outputs.loss.detach(), outputs.logits.detach(), gradients(outputs.loss, trained)


def batch(name):
    """Sentences of the first task: its labels are below the sizes of all mixed batches here."""
    made = {key: value for key, value in tiny.make_batch(name).items() if key != "attention_mask"}
    return made if name in tiny.SEQUENCE_TO_SEQUENCE else made | {"labels": torch.zeros_like(made["labels"])}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", [PlainModel, PublishedModel])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_model(name, kind, dtype):
    loss, logits, expected = of_ours(name, dtype, task=tiny.TASKS[2])
    model = kind(make(name, dtype))
    own_loss, own_logits = model(**batch(name), which=2)
    assert_close(own_loss, loss)
    assert_close(own_logits, logits)
    assert_same_gradients(gradients(own_loss, model.trained), expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mixed_batch(dtype):
    loss, logits, expected = of_ours("bert", dtype, task_ids=tiny.TASK_IDS)
    model = PlainModel(make("bert", dtype))
    own_loss, own_logits = model(**batch("bert"), which=tiny.TASK_IDS)
    own = logits.isfinite()
    assert_close(own_loss, loss)
    assert_close(own_logits[own], logits[own])
    assert_same_gradients(gradients(own_loss, model.trained), expected)


@pytest.mark.parametrize("kind", [PlainModel, PublishedModel])
def test_generated_tokens(kind):
    ids = batch("t5")["input_ids"]
    expected = make("t5").generate(input_ids=ids, task=tiny.TASKS[0], max_new_tokens=5, do_sample=False)
    assert torch.equal(kind(make("t5")).generate(ids, max_new_tokens=5, do_sample=False), expected)


@pytest.mark.parametrize("grouped", [False, True])
def test_hypernetwork(grouped):
    ours = make("t5").generators["decoder"]
    tasks = torch.randn(3 if grouped else 1, 64, requires_grad=True)
    parameters = [tasks, *ours.parameters()]
    with use_backend("reference"):
        expected = ours(tasks, grouped=grouped)
        wanted = _gradients(expected, parameters)
    for found in (
        plain.PlainHypernetwork(ours)(tasks, grouped),
        published.generate_all(published.PublishedHypernetwork(ours), tasks, grouped),
    ):
        assert found.keys() == expected.keys()
        for key, weights in found.items():
            for own, other in zip(weights, expected[key], strict=True):
                assert own.shape == other.shape
                assert_close(own, other)
        for own, other in zip(_gradients(found, parameters), wanted, strict=True):
            assert_close(own, other)


def _gradients(sites, parameters):
    total = sum((weight * torch.linspace(-1, 1, weight.numel()).view_as(weight)).sum()
                for key in sorted(sites) for weight in sites[key])  # fmt: skip
    return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)


def test_published_way_is_slow_in_the_way_it_is_said_to_be():
    """Every layer asks the hypernetwork again in every forward."""
    model = PublishedModel(make("bert"))
    asked = []
    model.networks["encoder"].register_forward_hook(lambda module, inputs, output: asked.append(inputs[1]))
    with torch.no_grad():
        model(**batch("bert"))
        model(**batch("bert"))
    assert asked == [0, 1, 0, 1]


@pytest.mark.parametrize(("kind", "more"), [(BaselineModel, ()), (PeftModel, ("lora_",))])
def test_frozen_backbone_trains_norms_and_heads(kind, more):
    if kind is PeftModel:
        pytest.importorskip("peft")
    model = kind(make("bert"))
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in model.trained.values()}
    for name in model.trained:
        assert "LayerNorm" in name or name.startswith("heads.") or any(part in name for part in more), name


@pytest.mark.parametrize("name", ["bert", "t5"])
@pytest.mark.parametrize("as_many", [False, True])
def test_peft_serves_the_tasks_of_a_batch(name, as_many):
    pytest.importorskip("peft")
    ours = make(name).eval()
    served = sum(tensor.numel() for site in ours.weights_of("a").values() for tensor in site)
    model = PeftTasksModel(ours, as_many).eval()
    of_a_task = sum(p.numel() for path, p in model.named_parameters() if "lora_" in path and ".task0." in path)
    assert model.rank == 8 if not as_many else 0 <= of_a_task - served < of_a_task / model.rank
    inputs, which = batch(name), torch.tensor([1, 0, 1])
    inputs = {key: value[:3] for key, value in inputs.items() if key in ("input_ids", "labels")}
    labels = inputs.get("labels") if name == "t5" else None
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "lora_B" in path:
                parameter.normal_()
        mixed = model(inputs["input_ids"], which, labels=labels)[-1]
        for number, task in enumerate(which.tolist()):
            row = slice(number, number + 1)
            alone = model(inputs["input_ids"][row], task, labels=None if labels is None else labels[row])[-1]
            assert_close(mixed[row, ..., : alone.shape[-1]], alone)
            other = model(inputs["input_ids"][row], 1 - task, labels=None if labels is None else labels[row])[-1]
            assert (other[..., 0] - alone[..., 0]).abs().max() > 1e-3


def test_other_configurations_are_rejected():
    with pytest.raises(ValueError, match="norm must be 'post' for a baseline, got 'none'"):
        PlainModel(make("bert", norm="none"))
