"""Nothing on the hot path waits for a device: training and decoding steps run on tensors that have no values.

PyTorch's meta device stands for a GPU. A look at a value raises there; a copy between host and device, which waits on a
GPU and ends the capture of a graph, is refused here.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from helpers.calls import CASES
from helpers.tiny import TASK_IDS, make_batch, make_model
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from hyperloader.ops import _reference, _triton, why_missing
from hyperloader.training.loss import SummedLoss

DEVICE = "meta"
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
STACKED = {  # of the operators with groups: the arguments that carry a dimension for them, and the place of `group`
    "adapter": ((1, 2, 3, 4, 5, 6), 9),
    "adapter_backward": ((3, 4, 5, 6, 7, 8), 11),
    "lora_linears": ((3, 4), 5),
    "lora_linears_backward": ((3, 4), 5),
}
each_choice = pytest.mark.parametrize("mixed", [False, True], ids=["task", "task_ids"])


class NoCopies(TorchDispatchMode):
    """Refuses operators on tensors of host and device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, torch.Tensor)]
        assert len({one.device.type for one in tensors}) < 2, f"{func} copies between host and device"
        return result


class NoTensorsFromNumbers(TorchFunctionMode):
    """Refuses tensors of given numbers: PyTorch writes them on the host and copies them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = func in FROM_NUMBERS and not isinstance(args[0], torch.Tensor)
        there = made and result.device.type == DEVICE and result.numel() > 0
        assert not there, f"{func.__name__} copies numbers to the device"
        return result


@contextmanager
def nothing_waits():
    with NoTensorsFromNumbers(), NoCopies():
        yield


@pytest.fixture(autouse=True)
def like_a_gpu(monkeypatch):
    """Meta tensors have no autocast. transformers looks at masks, unless it is traced or captured into a graph."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: True)


def on_device(tree):
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(DEVICE), tree)


def choice(mixed):
    return {"task_ids": TASK_IDS.to(DEVICE)} if mixed else {"task": "b c"}


@pytest.mark.parametrize(
    "look", [lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: bool(x[0]), lambda x: x[x > 0], torch.unique]
)
def test_reading_a_value_is_noticed(look):
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)meta"):
        look(torch.ones(3, device=DEVICE))


@pytest.mark.parametrize(
    "copy",
    [lambda x: torch.tensor([1, 2], device=DEVICE), lambda x: torch.ones(3).to(DEVICE), lambda x: x[torch.tensor([1])]],
)
def test_a_copy_is_noticed(copy):
    with pytest.raises(AssertionError, match="copies"), nothing_waits():
        copy(torch.ones(3, device=DEVICE))


@each_choice
@pytest.mark.parametrize("options", [{}, {"generator": "table"}, {"hypernetwork_per_stack": False}], ids=str)
@pytest.mark.parametrize("name", ["t5", "bert"])
def test_training_step(name, options, mixed):
    model, selected = make_model(name, torch.float32, **options).to(DEVICE).train(), choice(mixed)
    batch = on_device(make_batch(name))
    with nothing_waits():
        model(**batch, **selected).loss.backward()
    assert all(parameter.grad is not None for parameter in model.generators.parameters())


@each_choice
def test_training_step_of_one_task(mixed):
    model, selected = make_model("bert", torch.float32).to(DEVICE).train(), choice(mixed)
    model.freeze_except_task_embedding("b c")
    batch = on_device(make_batch("bert"))
    with nothing_waits():
        model(**batch, **selected).loss.backward()
    assert model.task_embedding.row.grad is not None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_step_of_the_trainer(smoothing):
    model = SummedLoss(make_model("t5", torch.float32).to(DEVICE).train(), smoothing)
    batch = on_device(make_batch()) | choice(True)
    with nothing_waits():
        model(**batch).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@each_choice
@torch.no_grad()
def test_decoding_step(mixed):
    """What ``generate`` does for every token; the weights are in the bank."""
    model, selected = make_model("t5", torch.float32).to(DEVICE), choice(mixed)
    batch = on_device(make_batch())
    before = model(**batch, **selected)
    step = {"attention_mask": batch["attention_mask"], "decoder_input_ids": batch["labels"][:, :1]}
    step |= {"encoder_outputs": (before.encoder_last_hidden_state,), "past_key_values": before.past_key_values}
    generated = model.bank.statistics()["generated"]
    with nothing_waits():
        logits = model(**step, **selected).logits
    assert logits.shape[:2] == (5, 1)
    assert model.bank.statistics()["generated"] == generated > 0


@pytest.mark.parametrize(("name", "grouped"), [*((name, False) for name in CASES), *((name, True) for name in STACKED)])
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_operator(monkeypatch, backend, name, grouped):
    """What the steps above leave out, for meta tensors are computed by no backend: all that Python does on the host."""
    if why_missing(backend) is not None:
        pytest.skip(why_missing(backend))
    launches = []
    if backend == "triton":
        monkeypatch.setattr("hyperloader.kernels._launch.launch", lambda kernel, *_, **__: launches.append(kernel))
    arguments = CASES[name]()
    if grouped:
        stacked, group = STACKED[name]
        for place in stacked:
            arguments[place] = tree_map_only(torch.Tensor, lambda one: torch.stack([one, one]), arguments[place])
        arguments[group] = torch.tensor([1, 0])
    arguments = on_device(arguments)
    with nothing_waits():
        (_triton.kernels() if backend == "triton" else _reference.REFERENCE)[name](*arguments)
    assert bool(launches) == (backend == "triton")
