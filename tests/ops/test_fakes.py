"""The compiler is told how results lie in memory: shapes, dtypes and strides, also of transposed arguments."""

import pytest
import torch
from helpers.calls import CASES
from torch._subclasses import FakeTensorMode


@pytest.mark.parametrize("name", CASES)
def test_fake_results_have_the_strides_of_real_ones(operators, name):
    operator, arguments = getattr(operators, name).default, CASES[name]()
    with torch.no_grad():
        real = operator(*arguments)
        with FakeTensorMode() as mode:
            convert = torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, arguments)
            fake = operator(*convert)
    listed = ([results] if isinstance(results, torch.Tensor) else list(results) for results in (real, fake))
    for index, (one, other) in enumerate(zip(*listed, strict=True)):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), index
        assert one.stride() == other.stride(), f"result {index}: {one.stride()}, the compiler is told {other.stride()}"
