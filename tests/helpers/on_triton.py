"""What the tests of the Triton kernels share: a reason to skip, the device, sentences with and without groups."""

import pytest
from conftest import DEVICE

from hyperloader.ops import why_missing

needs_triton = [
    pytest.mark.skipif(why_missing("triton") is not None, reason=str(why_missing("triton"))),
    pytest.mark.usefixtures("triton_backend"),
]
each_groups = pytest.mark.parametrize("groups", [None, 4], ids=["single", "mixed"])


def to_device(inputs):
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}
