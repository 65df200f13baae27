"""The drop-in hypernetwork hands out what it would generate now, always, and generates no oftener than needed."""

import copy
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch
from helpers.published_oracle import leaves
from interop.test_published import LAYERS, assert_same, assert_same_gradients, both, gradients, task
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import checkpoint

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


def step(controller, embedding, optimizer, used=range(LAYERS)):
    """One training step that uses the layers ``used``; returns the loss."""
    optimizer.zero_grad()
    loss = sum(t.square().sum() for i in used for t in leaves(controller(embedding, i)).values() if t is not None)
    loss.backward()
    optimizer.step()
    return loss.item()


def test_training():
    controller, theirs = both()
    losses = []
    for one in (controller, theirs):
        embedding = task()
        optimizer = torch.optim.SGD([embedding, *one.parameters()], lr=1e-4)
        losses.append([step(one, embedding, optimizer) for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(set(losses[0])) == 4


def test_training_with_layers_left_out():
    """A layer that was not asked for in the forward before is not served from its spent graph."""
    controller, theirs = both()
    losses = []
    for one in (controller, theirs):
        embedding = task()
        optimizer = torch.optim.SGD([embedding], lr=0.0)  # nothing is written: only the backward tells
        losses.append([step(one, embedding, optimizer, used) for used in ([0, 2], [1], [1, 2], [0])])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class DataAdam:
    """Writes through ``.data``, as optimizers of the published code's time did."""

    def __init__(self, parameters):
        self.parameters = list(parameters)

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None

    def step(self):
        for parameter in self.parameters:
            parameter.data.add_(parameter.grad.data.sign(), alpha=-1e-3)


def test_an_optimizer_that_leaves_no_version():
    controller, theirs = both()
    losses = []
    for one in (controller, theirs):
        embedding = task()
        optimizer = DataAdam(one.parameters())
        found = []
        for _ in range(3):
            with torch.no_grad():
                found += [leaves(one(embedding, layer))["lora_cross_query.b"].sum().item() for layer in range(LAYERS)]
            found.append(step(one, embedding, optimizer))
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_gradients_accumulate():
    controller, theirs = both()
    for one in (controller, theirs):
        embedding = task()
        for _ in range(3):
            sum(t.sum() for i in range(LAYERS) for t in leaves(one(embedding, i)).values() if t is not None).backward()
    found, expected = ({name: p.grad for name, p in one.named_parameters()} for one in (controller, theirs))
    assert_same_gradients(found, expected)


def test_two_forwards_before_one_backward():
    controller, theirs = both()
    found = []
    for one in (controller, theirs):
        embedding = task()
        first, second = ([leaves(one(embedding, i)) for i in range(LAYERS)] for _ in range(2))
        pairs = zip(first, second, strict=True)
        total = sum((a["feed_forward.up.weight"] * b["lora_query.a"].sum()).sum() for a, b in pairs)
        found.append(torch.autograd.grad(total, [embedding, one.LayerNorm.weight]))
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4)


def test_cross_attention_read_after_the_rest_was_differentiated():
    controller, theirs = both()
    found = []
    for one in (controller, theirs):
        embedding = task()
        layers = [one(embedding, i) for i in range(LAYERS)]
        sum(layer.feed_forward.up.weight.sum() for layer in layers).backward()
        for layer in layers:
            layer.lora_cross_query.a.square().sum().backward()
        found.append(embedding.grad)
    assert torch.allclose(*found, rtol=1e-4)


def test_cross_attention_cannot_be_read_after_a_change():
    controller, _ = both()
    embedding = task()
    unread = controller(embedding, 0)
    with torch.no_grad():
        controller.LayerNorm.weight.add_(1)
    with pytest.raises(RuntimeError, match="a parameter has changed since the weights of this layer were generated"):
        leaves(unread)


def test_cross_attention_has_the_gradient_mode_of_its_layer():
    controller, _ = both()
    embedding = task()
    with torch.no_grad():
        without = controller(embedding, 0)
    assert not without.lora_cross_query.a.requires_grad
    recorded = controller(embedding, 0)
    with torch.no_grad():
        assert recorded.lora_cross_query.a.requires_grad


def test_a_graph_is_not_kept():
    """Once every layer has been served nothing holds on to what was generated."""
    controller, _ = both()
    embedding = task()
    for layer in range(LAYERS):
        controller(embedding, layer)
    assert controller._served.generation is None


def test_threads_do_not_meet():
    controller, theirs = both()
    embeddings = [task().detach() * factor for factor in range(1, 5)]
    wrong, barrier = [], threading.Barrier(len(embeddings))

    def run(embedding):
        barrier.wait()
        for _ in range(20):
            for layer in range(LAYERS):
                found, expected = controller(embedding, layer), theirs(embedding, layer)
                if not torch.allclose(found.feed_forward.up.weight, expected.feed_forward.up.weight, atol=1e-5):
                    wrong.append(layer)

    threads = [threading.Thread(target=run, args=(embedding,)) for embedding in embeddings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda controller: pickle.loads(pickle.dumps(controller))])
def test_a_copy_has_its_own(copied):
    controller, theirs = both()
    embedding = task()
    with torch.no_grad():
        controller(embedding, 0)
        twin = copied(controller)
        twin.LayerNorm.weight.add_(1)
        assert_same(controller(embedding, 1), theirs(embedding, 1))
        theirs.load_state_dict(twin.state_dict())
        assert_same(twin(embedding, 1), theirs(embedding, 1))


def test_other_parameters_for_one_call():
    controller, theirs = both()
    embedding = task().detach()
    changed = {name: parameter.detach() + 0.1 for name, parameter in controller.named_parameters()}
    with torch.no_grad():
        controller(embedding, 0)
        found = leaves(torch.func.functional_call(controller, changed, (embedding, 1)))
        assert_same(controller(embedding, 1), theirs(embedding, 1))
        theirs.load_state_dict(changed)
    assert torch.allclose(found["lora_query.a"], leaves(theirs(embedding, 1))["lora_query.a"], atol=1e-5)


def test_nothing_is_kept_that_has_no_numbers():
    controller, theirs = both()
    embedding = task().detach()
    with torch.no_grad():
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert isinstance(controller(embedding, 0).lora_query.a, FakeTensor)
        assert_same(controller(embedding, 0), theirs(embedding, 0))
        with FakeTensorMode(allow_non_fake_inputs=True):
            controller(embedding, 1)
        assert_same(controller(embedding, 1), theirs(embedding, 1))


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


def test_reentrant_checkpointing():
    controller, theirs = both()
    found = []
    for one in (controller, theirs):
        embedding = task()

        def block(x, embedding, layer, one=one):
            weights = one(embedding, layer)
            return x * weights.feed_forward.up.weight.sum() + weights.lora_cross_query.a.sum()

        x = torch.ones((), requires_grad=True)
        for layer in range(LAYERS):
            x = checkpoint(block, x, embedding, layer, use_reentrant=True)
        x.backward()
        found.append(embedding.grad)
    assert torch.allclose(*found, rtol=1e-4)


def test_compiled():
    controller, theirs = both()
    embedding = task()
    compiled = torch.compile(controller, backend="eager")
    for factor in (1, 2):
        with torch.no_grad():
            embedding.mul_(factor)
        for layer in range(LAYERS):
            assert_same(compiled(embedding, layer), theirs(embedding, layer))
