"""Every operator test runs once with every backend of this installation, on the GPU where there is one."""

from contextlib import nullcontext

import pytest
import torch

from hyperloader.ops import BACKENDS, use_backend, why_missing


@pytest.fixture(autouse=True)
def on_gpu(request):
    """Let tests make their tensors there; one code checks the arguments on all devices, and rejects them on the CPU."""
    on_cpu = "test_cpu_kernels" in request.module.__name__ or request.function.__name__.startswith("test_rejects")
    with torch.device("cuda") if torch.cuda.is_available() and not on_cpu else nullcontext():
        yield


@pytest.fixture(params=[name for name in BACKENDS if name != "auto"])
def backend(request):
    reason = why_missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    with use_backend(request.param):
        yield request.param
