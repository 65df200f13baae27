"""On a GPU: a training step and a decoding step of T5, each captured into a CUDA graph and replayed on other inputs."""

import copy

import pytest
import torch
from helpers.graphs import capture
from helpers.tiny import TASK_IDS, make_batch, make_model

from hyperloader import ops
from hyperloader.ops import why_missing

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
each_choice = pytest.mark.parametrize("mixed", [False, True], ids=["task", "task_ids"])


@pytest.fixture(autouse=True, params=["auto", "triton"])
def backend(request):
    if why_missing(request.param) is not None:
        pytest.skip(why_missing(request.param))
    with ops.use_backend(request.param):
        yield


def batches(mixed, count=3):
    """Different batches of the same shapes, with padding, and the tasks of their sentences."""
    first = make_batch() | ({"task_ids": TASK_IDS} if mixed else {})
    first["attention_mask"][1, 4:] = 0

    def turned(turn):  # sentences are turned within, and meet other labels and tasks
        return {name: tensor.roll(turn, int(name == "input_ids")).to(DEVICE) for name, tensor in first.items()}

    return [turned(turn) for turn in range(count)]


def training(model, optimizer, batch, selected):
    """A function that makes one training step of ``batch`` and returns its loss and the gradients."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = model(**batch, **selected, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return [loss.detach(), *(parameter.grad for parameter in trained)]

    return step


def make_trained():
    model = make_model("t5", torch.float32).to(DEVICE).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # A large eps: what rounding leaves of a gradient that is zero must not move a parameter.
    return model, torch.optim.AdamW(trained, lr=1e-2, eps=1e-3, capturable=True)


@each_choice
def test_training_step_in_a_graph(mixed):
    selected, given = {} if mixed else {"task": "b c"}, batches(mixed)
    static = {name: tensor.clone() for name, tensor in given[0].items()}
    model, optimizer = make_trained()
    graph, found = capture(training(model, optimizer, static, selected))
    twin, its_optimizer = make_trained()
    twin.load_state_dict(model.state_dict())
    its_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for batch in given:
        for name, tensor in batch.items():
            static[name].copy_(tensor)
        graph.replay()
        expected = training(twin, its_optimizer, batch, selected)()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=3e-5)
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=3e-5, msg=lambda text, name=name: f"{name}: {text}")


@each_choice
@pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached"])
@torch.no_grad()
def test_decoding_step_in_a_graph(mixed, cached):
    """The graph generates the weights itself: parameters that change between replays count."""
    model = make_model("t5", torch.float32).to(DEVICE)
    selected, given = {} if mixed else {"task": "b c"}, batches(mixed)
    before = model(**given[0], **selected)
    static = {"decoder_input_ids": given[0]["labels"][:, : 1 if cached else 4].clone()}
    static |= {"task_ids": given[0]["task_ids"].clone()} if mixed else {}
    others = {"encoder_outputs": (before.encoder_last_hidden_state,), "attention_mask": given[0]["attention_mask"]}

    def step():
        cache = {"past_key_values": copy.deepcopy(before.past_key_values)} if cached else {"use_cache": False}
        return [model(**static, **others, **selected, **cache).logits]

    graph, (found,) = capture(step)
    for batch in given:
        static["decoder_input_ids"].copy_(batch["labels"][:, -static["decoder_input_ids"].shape[1] :])
        if mixed:
            static["task_ids"].copy_(batch["task_ids"])
        for parameter in model.generators.parameters():
            parameter.mul_(0.9)
        graph.replay()
        torch.testing.assert_close(found, step()[0], rtol=1e-3, atol=3e-5)
