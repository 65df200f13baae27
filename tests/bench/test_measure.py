"""Bytes and operators of calls whose cost is known."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.measure import count_memory, count_operators

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def test_known_allocations():
    """4000 bytes stay, 8000 come and go, 4000 more come after they went."""

    def call():
        kept = torch.empty(1000)
        gone = torch.empty(2000)
        del gone
        return kept, torch.empty(1000)

    assert count_memory(call, CPU) == (12000, 16000)


def test_memory_from_before_does_not_count():
    before = torch.empty(1000)
    assert count_memory(lambda: before[:500].view(-1), CPU) == (0, 0)


def test_backward_allocates_too():
    x = torch.ones(1000, requires_grad=True)
    forward = count_memory(lambda: x.square().detach(), CPU)
    both = count_memory(lambda: torch.autograd.grad(x.square(), x, torch.ones(1000)), CPU)
    assert both.allocated > forward.allocated == 4000


def test_operators():
    x = torch.ones(3)
    assert count_operators(lambda: x.add(1).mul(2)) == 2
    assert count_operators(lambda: None) == 0


def test_operators_of_the_backward_count():
    x, grad = torch.ones(3, requires_grad=True), torch.ones(3)
    assert count_operators(lambda: torch.autograd.grad(x.sin(), x, grad)) > count_operators(lambda: x.sin())


@pytest.mark.gpu
def test_known_allocations_on_a_gpu():
    def call():
        kept = torch.empty(1 << 20, device="cuda")
        gone = torch.empty(1 << 21, device="cuda")
        del gone
        return kept

    assert count_memory(call, torch.device("cuda")) == (12 << 20, 12 << 20)


FAULTS = """
import resource, torch
from bench import machine
kept = machine.keep_freed_memory()
for _ in range(100):  # until the pieces that lie about fit
    torch.ones(10 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10 << 20)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept():
    """Blocks of 40 MiB, 10,240 pages, take the memory of those before them."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, cwd=ROOT)
    kept, faults = done.stdout.split()
    assert kept == str(platform.libc_ver()[0] == "glibc")
    assert kept == "False" or int(faults) < 1000, faults
