"""Models compiled by Inductor: as near to the float64 reference as without, and how often they are compiled."""

import pytest
import torch
from helpers import families
from helpers.oracle import assert_as_accurate
from torch._dynamo.utils import counters
from transformers import CompileConfig

from hyperloader import ops

WITHOUT_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "t5": {"dropout_rate": 0.0},
    "llama": {},
}


def pair(name):
    """A model in float64, and the same in float32."""
    exact, model = (
        families.model_for(name, dtype, families.make(name, dtype, **WITHOUT_DROPOUT[name]))
        for dtype in (torch.float64, torch.float32)
    )
    model.load_state_dict(exact.state_dict())
    exact.load_state_dict(model.state_dict())  # rounded once
    return exact, model


def results(model, called, batch, training):
    """Logits, loss and gradients by name."""
    model.train(training)
    model.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(training):
        outputs = called(**batch)
    found = {"logits": outputs.logits.detach(), "loss": outputs.loss.detach()}
    if training:
        outputs.loss.backward()
        found |= {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    return found


def batches(model):
    """Of several lengths and numbers of sentences, with at least as many of these as tasks."""
    batch = families.batch_for(model.backbone) | {"task_ids": families.TASK_IDS}
    batch |= {} if model.heads is not None else {"use_cache": False}
    yield batch
    tensors = {name: one for name, one in batch.items() if isinstance(one, torch.Tensor)}
    yield batch | {name: torch.cat([one.flip(0), one]) for name, one in tensors.items()}
    yield batch | {name: one[:, -4:].contiguous() for name, one in tensors.items() if one.ndim == 2}


def test_the_operators():
    """A quick one: an operator within what Inductor compiles around it."""
    torch._dynamo.reset()
    x, down, up = torch.randn(3, 4, 8), torch.randn(2, 8), torch.randn(8, 2)
    inputs = [x, down, torch.randn(2), up, torch.randn(8)]

    def step(*tensors):
        return ops.adapter(*tensors, norm="none").tanh()

    compiled = torch.compile(step, fullgraph=True)
    expected = step(*[tensor.double() for tensor in inputs])
    assert_as_accurate(compiled(*inputs), step(*inputs), expected, "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_training_and_inference(name):
    torch._dynamo.reset()
    counters.clear()
    exact, model = pair(name)
    compiled = torch.compile(model, dynamic=True, fullgraph=True)
    for training in (True, False, True):
        for batch in batches(model):
            oracle = results(exact, exact, batch, training)
            eager = results(model, model, batch, training)
            found = results(model, compiled, batch, training)
            assert found.keys() == oracle.keys()
            for key, value in oracle.items():
                assert (found[key] is None) == (eager[key] is None) == (value is None)
                if value is not None:
                    finite = value.isfinite()
                    assert torch.equal(found[key].isfinite(), finite)
                    assert_as_accurate(found[key][finite], eager[key][finite], value[finite], f"{key}, {training}", 4)
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_generation_with_a_static_cache(name):
    """One graph for every task by name, and one for batches of several tasks; the same texts."""
    torch._dynamo.reset()
    counters.clear()
    model = families.model_for(name, torch.float32)
    batch = families.batch_for(model.backbone)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    config = CompileConfig(fullgraph=True, mode=None)
    config._compile_all_devices = True  # transformers compiles on GPUs alone if not told
    static = {"cache_implementation": "static", "compile_config": config}
    for selected in [
        *({"task": task} for task in families.TASKS),
        *({"task_ids": families.TASK_IDS.roll(n)} for n in (0, 1)),
    ]:
        options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6} | selected
        expected = model.generate(**inputs, **options)
        assert torch.equal(model.generate(**inputs, **options, **static), expected)
    assert counters["stats"]["unique_graphs"] == 2
