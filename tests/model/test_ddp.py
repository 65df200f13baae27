"""Two processes in a user's own loop, one with a batch of one task, the other with a mixed one."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from helpers import families, quantized, words
from helpers.tiny import TASK_IDS, make_batch, make_model

LOOP = textwrap.dedent(
    """
    import sys

    import torch
    import torch.distributed as dist
    from helpers import tiny, words
    from helpers.tiny import TASK_IDS, make_batch
    from torch.nn.parallel import DistributedDataParallel

    from hyperloader.row_exchange import exchange_rows

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/rendezvous", rank=int(sys.argv[2]), world_size=2)
    make_model = words.make_model if "words" in sys.argv else tiny.make_model
    model = make_model("bert", torch.float32).to(getattr(torch, sys.argv[3])).train()
    if "sparse" in sys.argv:
        state, model = model.trainable_state(), make_model("bert", torch.float32, sparse_gradients=True).train()
        model.load_trainable_state(state)
    torch.manual_seed(dist.get_rank())  # what is dropped differs
    batch = make_batch("bert")
    batch["labels"] = torch.zeros_like(batch["labels"])
    together = DistributedDataParallel(model)
    if "gathered" in sys.argv:
        together.register_comm_hook(None, exchange_rows)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        selected = TASK_IDS if dist.get_rank() else torch.zeros_like(TASK_IDS)
        together(**batch, task_ids=selected).loss.backward()
        optimizer.step()
    torch.save(model.trainable_state(), f"{sys.argv[1]}/{dist.get_rank()}.pt")
    dist.destroy_process_group()
    """
)


needs_processes = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this build of torch has no torch.distributed"
)


def trained(folder, *arguments):
    """What each of two processes ends with."""
    script = folder / "loop.py"
    script.write_text(LOOP)
    tests = str(Path(__file__).parents[1])
    code = f"import sys, runpy; sys.path.insert(0, {tests!r}); runpy.run_path({str(script)!r})"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(rank), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=300)
        assert rank.returncode == 0, output.decode()[-2000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@needs_processes
def test_tasks_in_words(tmp_path):
    """Each process drops other rows and draws other phrasings, and nothing is left out of a step."""
    one, two = trained(tmp_path, "float32", "words")
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    before = words.make_model("bert", torch.float32).trainable_state()
    assert all(not torch.equal(one[name], before[name]) for name in one if name.endswith("words.weight"))


@pytest.mark.slow
@needs_processes
def test_sparse_gradients(tmp_path):
    """Exchanged as such: each process has rows of tasks that the other one does not meet."""
    ends = {}
    for name, arguments in {"dense": [], "sparse": ["sparse"], "gathered": ["sparse", "gathered"]}.items():
        (tmp_path / name).mkdir()
        ends[name], other = trained(tmp_path / name, "float32", *arguments)
        torch.testing.assert_close(ends[name], other, rtol=0, atol=0)
        torch.testing.assert_close(ends[name], ends["dense"], rtol=1e-4, atol=1e-6)


@needs_processes
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_one_task_and_several_on_the_processes(tmp_path, dtype):
    one, two = trained(tmp_path, dtype)
    torch.testing.assert_close(one, two, rtol=0, atol=0)

    model = make_model("bert", torch.float32).to(getattr(torch, dtype)).train()
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    batch = make_batch("bert")
    batch["labels"] = torch.zeros_like(batch["labels"])
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (sum(model(**batch, task_ids=ids).loss for ids in (torch.zeros_like(TASK_IDS), TASK_IDS)) / 2).backward()
        optimizer.step()
    after = model.trainable_state()
    if dtype == "float32":
        torch.testing.assert_close(one, after, rtol=1e-4, atol=1e-6)
    moved, differ = (
        torch.cat([(some[name] - after[name]).flatten() for name in after]).norm() for some in (before, one)
    )
    assert {value.dtype for value in one.values()} == {torch.float32}
    assert moved > 0 and differ < 2e-2 * moved


@needs_processes
@quantized.with_library(["torchao-int8"])
def test_a_quantised_backbone(quantization):
    """In a group of one, which sends what it begins at too."""
    model = quantized.model_for("bert", quantization).train()
    batch = families.batch_for(model.backbone) | {"task_ids": families.TASK_IDS}
    expected = model(**batch).loss.detach()
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert torch.equal(torch.nn.parallel.DistributedDataParallel(model)(**batch).loss, expected)
    finally:
        dist.destroy_process_group()
