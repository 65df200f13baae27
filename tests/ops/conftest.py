"""Every operator test runs once with every backend of this installation, on the GPU where there is one."""

from contextlib import nullcontext

import pytest
import torch
from conftest import DEVICE
from helpers import cuda_host

from hyperloader.ops import BACKENDS, use_backend, why_missing

ON_CPU = ("test_any_size", "test_checks", "test_cpu_loops")
NAMESPACES = {"reference": "hyperloader_reference", "triton": "hyperloader_triton"}


@pytest.fixture(autouse=True)
def on_gpu(request):
    """Let tests make their tensors there; one code checks the arguments on all devices, and rejects them on the CPU."""
    on_cpu = request.module.__name__.rpartition(".")[2] in ON_CPU or request.function.__name__.startswith(
        "test_rejects"
    )
    with torch.device(DEVICE) if DEVICE == "cuda" and not on_cpu else nullcontext():
        yield


@pytest.fixture(
    params=[*(name for name in BACKENDS if name != "auto"), pytest.param("cuda-host", marks=pytest.mark.slow)]
)
def backend(request):
    if request.param == "cuda-host":
        if DEVICE == "cuda":
            pytest.skip("there is a GPU, on which these kernels are those of the backend native")
        with cuda_host.backend():
            yield request.param
        return
    reason = why_missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    if request.param == "triton":
        reason = triton_refuses(request.node.callspec.params.get("dtype"), request.node)
        if reason is not None:
            pytest.skip(reason)
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def cuda_kernels():
    """The CUDA kernels, on the host where there is no GPU."""
    with use_backend("native") if DEVICE == "cuda" else cuda_host.backend():
        yield


@pytest.fixture
def triton_backend():
    with use_backend("triton"):
        yield


@pytest.fixture
def operators(backend):
    """The operators of the backend, as PyTorch knows them."""
    return getattr(torch.ops, NAMESPACES.get(backend, "hyperloader"))


def triton_refuses(dtype, node):
    """Why the Triton kernels cannot run a test of ``dtype``, or one marked as computing in a certain one."""
    marked = node.get_closest_marker("computes")
    dtype = dtype if marked is None else marked.args[0]
    if dtype == torch.float64:
        return "the Triton kernels compute no float64"
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        return "Triton's interpreter multiplies the bit patterns of bfloat16"
    return None
