"""The compiled kernels at random sizes: those for CPUs, and those for CUDA on the host."""

import pytest
import torch
from conftest import DEVICE
from helpers import cuda_host
from helpers.cases import ACTIVATIONS, NORMS, adapter_inputs, lora_inputs
from helpers.pairs import adapter_pair, compare, lora_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperloader import ops
from hyperloader.ops import native

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native extension: {native.reason}")


@pytest.fixture(autouse=True, params=["cpu", pytest.param("cuda-host", marks=pytest.mark.slow)])
def kernels(request):
    if request.param == "cuda-host" and DEVICE == "cuda":
        pytest.skip("the tensors are on the CPU")
    with ops.use_backend("native") if request.param == "cpu" else cuda_host.backend():
        yield


sizes = st.integers(1, 70)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 5), tokens=st.integers(0, 40), hidden=st.integers(4, 70), bottleneck=sizes,
    groups=st.none() | st.integers(1, 4), norm=st.sampled_from(NORMS), activation=st.sampled_from(sorted(ACTIVATIONS)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seed=st.integers(0, 2**30),
)  # fmt: skip
def test_any_adapter(batch, tokens, hidden, bottleneck, groups, norm, activation, dtype, seed):
    torch.manual_seed(seed)
    inputs = adapter_inputs(batch, tokens, hidden, bottleneck, groups, norm, dtype)
    inputs["x"] = inputs["x"].transpose(0, 1).contiguous().transpose(0, 1)
    compare(*adapter_pair(inputs, norm=norm, activation=activation, eps=1e-2), rounding_factor=8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 5), tokens=st.integers(0, 40), in_features=sizes, out_features=sizes,
    rank=st.integers(1, 20), groups=st.none() | st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seed=st.integers(0, 2**30),
)  # fmt: skip
def test_any_lora_linear(batch, tokens, in_features, out_features, rank, groups, dtype, seed):
    torch.manual_seed(seed)
    compare(
        *lora_pair(lora_inputs(batch, tokens, in_features, out_features, rank, groups, dtype), 0.5), rounding_factor=8
    )
