"""What runs the CUDA kernels on the host finds the faults that it is there for, and none in their sound twins."""

import os
import re
import subprocess
import sys

import pytest
from helpers import cuda_host

pytestmark = pytest.mark.skipif(cuda_host.why_missing() is not None, reason=str(cuda_host.why_missing()))

ACCESS = r"a (read|write) by thread \(\d+, 0, 0\) at faults.cu:\d+"
RACES = {  # what the race check, which knows of every access, and the runtime say
    "no_barrier": rf"no_barrier\(.*race in a __shared__ variable: nothing orders {ACCESS} and {ACCESS}",
    "no_barrier_of_the_warp": rf"race in dynamic shared memory \+ \d+: nothing orders {ACCESS} and {ACCESS}",
    "no_barrier_before_the_next_write": rf"race in a __shared__ variable: nothing orders {ACCESS} and {ACCESS}",
    "all_blocks_write_one_place": f"race in global memory: nothing orders a write .* of another block .* and {ACCESS}",
    "one_block_reads_what_another_writes": f"race in global memory: nothing orders .* of another block .* and {ACCESS}",
    "no_wait_for_a_copy": rf"{ACCESS} of dynamic shared memory \+ \d+, to which a copy is under way",
    "no_wait_for_rows": rf"{ACCESS} of .*, to which a copy is under way|race in dynamic shared memory",
    "some_threads_do_not_wait_for_rows": "to which rows came that it has not waited for|to which a copy is under way"
    "|race in dynamic shared memory",
    "rows_that_nobody_copies": r"waits at Arrival::wait \(faults.cu:\d+\)",
    "rows_that_nobody_expects": "more bytes come than an arrival expects",
    "no_barrier_before_the_next_rows": rf"race in dynamic shared memory \+ \d+: nothing orders {ACCESS} and a write",
    "rows_over_what_was_written": r"rows come over a write by thread .* that did not call write_before_rows",
    "some_threads_reach_no_barrier": r"\(0, 0, 0\) waits at __syncthreads \(faults.cu:\d+\), thread .* has ended",
    "two_barriers_at_once": r"__syncthreads \(faults.cu:\d+\), while others wait at __syncthreads \(faults.cu:\d+\)",
    "some_lanes_reach_no_shuffle": r"waits at __shfl_xor_sync \(faults.cu:\d+\), thread \(5, 0, 0\) has ended",
    "shuffle_from_outside_of_the_mask": "a shuffle reads lane 16, which its mask leaves out",
    "lane_outside_of_its_mask": r"__syncwarp \(faults.cu:\d+\) with a mask that leaves out the lane itself",
    "shared_memory_that_nothing_was_written_to": "nan",
}
SANITIZED = {
    "beyond_global_memory": "heap-buffer-overflow .*WRITE of size 4",
    "beyond_dynamic_shared_memory": "heap-buffer-overflow .*WRITE of size 4",
    "beyond_a_shared_variable": "faults.cu.* index 64 out of bounds for type 'float \\[64\\]'",
    "sixteen_bytes_not_aligned": "faults.cu.* misaligned address .* for type 'struct float4'",
    "no_wait_for_a_copy": "use-after-poison .*READ of size 4",
    "no_wait_for_rows": "use-after-poison .*READ of size 4",
}


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
@pytest.mark.parametrize("name", RACES)
def test_found_as_they_run(monkeypatch, name, order):
    monkeypatch.setenv("HYPERLOADER_CUDA_HOST_ORDER", order)
    assert re.search(RACES[name], cuda_host.fault(name, sound=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", SANITIZED)
def test_found_by_the_sanitizers(name):
    """They end the process."""
    done = fault_in_a_process(name, sound=False)
    assert done.returncode != 0
    assert re.search(SANITIZED[name], done.stderr.replace("\n", " "))


@pytest.mark.parametrize("name", [*RACES, "zeros_of_a_copy", *(name for name in SANITIZED if name not in RACES)])
def test_nothing_is_found_where_nothing_is_wrong(name):
    assert cuda_host.fault(name, sound=True)[0].isdigit()


@pytest.mark.slow
@pytest.mark.parametrize("name", SANITIZED)
def test_the_sanitizers_find_nothing_where_nothing_is_wrong(name):
    done = fault_in_a_process(name, sound=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout[0].isdigit()


def fault_in_a_process(name, sound):
    cuda_host.compiled("sanitized")
    code = f"from helpers import cuda_host; print(cuda_host.fault({name!r}, {sound}))"
    environment = cuda_host.sanitized() | {"PYTHONPATH": f"{cuda_host.ROOT}{os.pathsep}{cuda_host.ROOT / 'tests'}"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_more_shared_memory_than_there_is(monkeypatch):
    monkeypatch.setenv("HYPERLOADER_CUDA_HOST_SHARED", "255")
    message = cuda_host.fault("beyond_dynamic_shared_memory", sound=True)
    assert "sizes must be smaller for this GPU: bottleneck, rank or embeddings take 256 bytes of shared" in message
    monkeypatch.setenv("HYPERLOADER_CUDA_HOST_SHARED", "256")
    assert cuda_host.fault("beyond_dynamic_shared_memory", sound=True)[0].isdigit()
