"""The drop-in controller in training: steps, graphs, threads, copies."""

import copy
import pickle
import threading

import pytest
import torch
from helpers.published_oracle import leaves
from helpers.published_pairs import LAYERS, assert_same, assert_same_gradients, both, task
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import checkpoint


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


def test_threads_do_not_share():
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
