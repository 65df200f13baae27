"""The drop-in hypernetwork hands out what it would generate now, always, and generates no oftener than needed."""

from types import SimpleNamespace

import pytest
import torch
from helpers.published_oracle import leaves
from helpers.published_pairs import LAYERS, assert_same, assert_same_gradients, both, gradients, task
from torch import nn

from hyperloader import ops
from hyperloader.interop.published import generation
from hyperloader.ops import use_backend


@pytest.fixture
def counted(monkeypatch):
    """The heads that ``ops.generate`` was called with, and for how many rows."""
    calls = []

    def count(condition, weights, *rest, **options):
        calls.append((len(weights), condition.shape[0]))
        return ops.generate(condition, weights, *rest, **options)

    monkeypatch.setattr(generation, "ops", SimpleNamespace(condition=ops.condition, generate=count))
    return calls


OWN = [(6, 2 * LAYERS), (2, 2 * LAYERS)]  # adapters; queries and values of self-attention
CROSS = [(2, 2 * LAYERS)]


def test_the_first_call_generates_all_layers(counted):
    controller, _ = both()
    embedding = task()
    for layer in range(LAYERS):
        controller(embedding, layer)
    assert counted == OWN
    for layer in range(LAYERS):
        controller(embedding, layer)
    assert counted == OWN * 2


def test_cross_attention_is_generated_when_read(counted):
    controller, _ = both()
    embedding = task()
    layers = [controller(embedding, layer) for layer in range(LAYERS)]
    del counted[:]
    for layer in layers:
        assert layer.lora_cross_query.a.shape == layer.lora_cross_value.a.shape
    assert counted == CROSS


def test_without_a_gradient_it_serves_until_something_changes(counted):
    controller, _ = both()
    embedding = task()
    with torch.no_grad():
        for layer in [*range(LAYERS)] * 3:
            controller(embedding, layer)
    assert counted == OWN


def test_a_frozen_hypernetwork_serves_on(counted):
    controller, _ = both()
    controller.requires_grad_(False)
    embedding = task().detach()
    for layer in [*range(LAYERS)] * 3:
        controller(embedding, layer)
    assert counted == OWN


def _in_place(controller, embedding):
    with torch.no_grad():
        controller.LayerNorm.weight.add_(1)


def _of_the_embedding(controller, embedding):
    with torch.no_grad():
        embedding.mul_(2)


def _load(controller, embedding):
    controller.load_state_dict({name: tensor + 1 for name, tensor in controller.state_dict().items()})


def _data(controller, embedding):
    parameter = controller.up_sampler_hyper_net["weight_generator"][0].weight
    parameter.data = parameter.data + 1


def _data_twice(controller, embedding):
    """The second may well get the memory that the first gave back."""
    parameter = controller.lora_a_hyper_net["weight_generator"][0].weight
    parameter.data = parameter.data + 1
    parameter.data = parameter.data + 1


def _embedding_data(controller, embedding):
    embedding.data = embedding.data + 1


def _parameter(controller, embedding):
    controller.adapters_block_type.weight = nn.Parameter(controller.adapters_block_type.weight.detach() + 1)


def _module(controller, embedding):
    old = controller.post_layernorm_hypernet["bias_generator"]
    controller.post_layernorm_hypernet["bias_generator"] = nn.Linear(old.in_features, old.out_features)


def _container(controller, embedding):
    old = controller.down_sampler_hyper_net["bias_generator"][0]
    controller.down_sampler_hyper_net["bias_generator"] = nn.Sequential(nn.Linear(old.in_features, old.out_features))


def _optimizer(controller, embedding):
    for parameter in controller.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(controller.parameters(), lr=0.1).step()


def _data_in_place_and_eval(controller, embedding):
    for parameter in controller.parameters():
        parameter.data.add_(1)
    controller.eval()


def _data_in_place_and_forget(controller, embedding):
    controller.LayerNorm.bias.data.add_(1)
    controller.forget()


CHANGES = [_in_place, _of_the_embedding, _load, _data, _data_twice, _embedding_data, _parameter, _module, _container]
CHANGES += [_optimizer, _data_in_place_and_eval, _data_in_place_and_forget]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("next_layer", [0, 1])
def test_changes_are_noticed(change, grad, next_layer):
    controller, theirs = both()
    embedding = task()
    with torch.set_grad_enabled(grad):
        before = leaves(controller(embedding, 0))
        change(controller, embedding)
        theirs.load_state_dict(controller.state_dict())
        after = controller(embedding, next_layer)
        assert_same(after, theirs(embedding, next_layer))
    assert all(tensor is None or tensor._version == 0 for tensor in before.values())


def test_casting_is_noticed():
    controller, theirs = both()
    with torch.no_grad():
        controller(task(), 0)
        controller.double(), theirs.double()
        embedding = task(dtype=torch.float64)
        assert_same(controller(embedding, 0), theirs(embedding, 0))


def test_another_embedding_is_noticed():
    controller, theirs = both()
    with torch.no_grad():
        for seed in range(20):  # the memory of one is often given to the next
            embedding = torch.full((6,), float(seed))
            assert_same(controller(embedding, 1), theirs(embedding, 1))


def test_a_served_weight_that_is_written_into_is_not_served_again():
    controller, theirs = both()
    embedding = task()
    with torch.no_grad():
        controller(embedding, 1).self_attention.post_norm.bias.add_(1)
        controller(embedding, 0).lora_value.b.zero_()
        for layer in range(LAYERS):
            assert_same(controller(embedding, layer), theirs(embedding, layer))


def test_a_served_cross_attention_weight_that_is_written_into_is_not_served_again():
    controller, theirs = both()
    embedding = task()
    with torch.no_grad():
        controller(embedding, 1).lora_cross_value.b.zero_()
        for layer in range(LAYERS):
            assert_same(controller(embedding, layer), theirs(embedding, layer))


def test_what_was_generated_without_a_gradient_is_not_served_with_one():
    controller, theirs = both()
    embedding = task()
    with torch.no_grad():
        controller(embedding, 0)
    assert_same_gradients(gradients(controller, embedding, ""), gradients(theirs, embedding, ""))
    with torch.no_grad():
        assert not controller(embedding, 1).feed_forward.up.weight.requires_grad
        assert not controller(embedding, 1).lora_cross_query.a.requires_grad


def test_a_parameter_that_is_thawed_gets_its_gradient():
    controller, theirs = both()
    for one in (controller, theirs):
        one.LayerNorm.requires_grad_(False)
    controller(task(), 0)
    controller.LayerNorm.requires_grad_(True)
    embedding = task()
    controller(embedding, 0)
    theirs.LayerNorm.requires_grad_(True)
    assert_same_gradients(gradients(controller, embedding, ""), gradients(theirs, embedding, ""))


@pytest.mark.parametrize("inference_parameters", [False, True])
def test_inference_mode(counted, inference_parameters):
    with torch.inference_mode(inference_parameters):
        controller, theirs = both()
    with torch.inference_mode():
        embedding = task().detach()
        for layer in range(LAYERS):
            assert_same(controller(embedding, layer), theirs(embedding, layer))
        embedding.add_(1)  # leaves no version
        assert_same(controller(embedding, 1), theirs(embedding, 1))
    kept = nn.Parameter(torch.ones(6))
    if not inference_parameters:
        del counted[:]
        with torch.inference_mode():
            for layer in [*range(LAYERS)] * 2:
                controller(kept, layer)
        assert counted == OWN
        assert_same_gradients(gradients(controller, kept, ""), gradients(theirs, kept, ""))


def test_another_backend_is_asked_itself(counted):
    controller, _ = both()
    embedding = task()
    with torch.no_grad():
        controller(embedding, 0)
        with use_backend("reference"):
            controller(embedding, 1)
            controller(embedding, 2)
    assert counted == OWN * 2
