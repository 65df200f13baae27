"""What Inductor compiles: an operator as near to the float64 reference as without it, and steps of generation."""

import pytest
import torch
from helpers import families
from helpers.oracle import assert_as_accurate
from torch._dynamo.utils import counters
from transformers import CompileConfig

from hyperloader import ops


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
