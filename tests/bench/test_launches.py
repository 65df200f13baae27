"""What the bounds count is what is launched: the CUDA kernels on the host, the Triton kernels by their launcher."""

import pytest
import torch
from helpers import cuda_host

from bench.bounds import cuda, measured, triton
from bench.bounds.launches import MODELS
from bench.bounds.recorded import recorded
from hyperloader.ops import _triton

MODEL = MODELS[0]


def counted(backend, tokens, model=MODEL):
    """Kernels and blocks of the launches that every bound is computed from, but for those of the library."""
    of_tokens = backend.calls(model, tokens) if tokens else backend.calls_without_tokens(model)
    return {
        call.operator: [(one.kernel, one.blocks) for one in call.launches if one.kernel != "cuBLAS"]
        for call in of_tokens
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "tokens"), [(MODEL, 8), (MODEL, 0), (MODELS[2], 8)], ids=["8 tokens", "no tokens", "of 2048"]
)
def test_cuda(model, tokens):
    """A block's share of the work is told by its kernel and by how many there are, but for blocks that walk over tiles:
    on the host there are three of them at most."""
    expected, found = counted(cuda, tokens, model), {}
    for operator, call in measured.calls("hyperloader", model, tokens, torch.device("cpu")).items():
        with cuda_host.launches() as launches, torch.no_grad():
            call()
        found[operator] = launches
    names = {operator: [measured.kernel_name(kernel) for kernel, _ in launches] for operator, launches in found.items()}
    wanted = {
        operator: [measured.kernel_name(kernel) for kernel, _ in launches] for operator, launches in expected.items()
    }
    assert names == wanted
    blocks = {operator: [blocks for _, blocks in launches] for operator, launches in found.items()}
    assert blocks == {operator: [blocks for _, blocks in launches] for operator, launches in expected.items()}


@pytest.mark.skipif(not _triton.installed(), reason=f"Triton {_triton.LEAST} or newer is not installed")
@pytest.mark.parametrize("tokens", [16384, 8])
def test_triton(tokens):
    expected = counted(triton, tokens) | counted(triton, 0)
    for operator, launches in recorded(MODEL, tokens).items():
        assert [(one.kernel, one.programs) for one in launches] == expected[operator]
