"""Every operator test runs once with every backend of this installation, Triton's on the GPU where there is one."""

import contextlib

import pytest
import torch
from conftest import DEVICE

from hyperloader.ops import BACKENDS, use_backend, why_missing

NAMESPACES = {"reference": "hyperloader_reference", "triton": "hyperloader_triton"}


@pytest.fixture(params=[name for name in BACKENDS if name != "auto"])
def backend(request):
    reason = why_missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    if request.param == "triton":
        reason = triton_refuses(request.node.callspec.params.get("dtype"), request.node)
        if reason is not None:
            pytest.skip(reason)
    # Arguments that are refused never reach a kernel, and some are made before a test runs.
    on_gpu = request.param == "triton" and not request.node.name.startswith("test_rejects")
    with use_backend(request.param), torch.device(DEVICE) if on_gpu else contextlib.nullcontext():
        yield request.param


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
