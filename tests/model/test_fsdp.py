"""FSDP2 (``fully_shard``): a sharded model trains as a whole one, and gathers what it saves, merges and exports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiny import make_batch, make_model

dist = pytest.importorskip("torch.distributed")
fsdp = pytest.importorskip("torch.distributed.fsdp")
pytestmark = pytest.mark.skipif(
    not dist.is_available() or not hasattr(fsdp, "fully_shard"), reason="this build of torch has no fully_shard"
)


@pytest.fixture
def alone():
    """This process, as the only one of a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_one_process(name, alone, tmp_path):
    from helpers.sharded import check

    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), [("bert", 2), ("t5", 2), ("bert", 4)])
def test_several_processes(name, processes, tmp_path):
    tests = Path(__file__).parents[1]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, str(tests / "helpers" / "sharded.py"), name, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_what_a_sharded_model_refuses(alone):
    from helpers.sharded import sharded

    model = sharded("bert").eval()
    for what, call in {
        "add_task": lambda: model.add_task("new", labels=["O"]),
        "freeze_except_task_embedding": lambda: model.freeze_except_task_embedding("a"),
        r"merge\(\.\.\., inplace=True\)": lambda: model.merge("a", inplace=True),
        r"detach\(\)": model.detach,
    }.items():
        with pytest.raises(RuntimeError, match=f"^{what} must be called before FSDP shards the model"):
            call()


def test_sparse_gradients_are_refused(alone):
    model = make_model("bert", torch.float32, sparse_gradients=True).train()
    fsdp.fully_shard(model)
    with pytest.raises(RuntimeError, match="^sparse_gradients must be False in a model that FSDP shards"):
        model(**make_batch("bert"), task="a")


def test_modules_that_are_sharded_apart(alone):
    """Those whose own forward is called may be; the others, and all without the whole model, are refused."""
    inputs = {"input_ids": torch.ones(1, 3).long(), "task": "a"}
    model = make_model("bert", torch.float32)
    expected = model(**inputs).logits
    fsdp.fully_shard(model.generators["encoder"])
    assert torch.equal(fsdp.fully_shard(model)(**inputs).logits, expected)
    for inner in ("heads.heads.0", "generators.encoder.condition.first", "generators.encoder.heads.lora_A",
                  "backbone.encoder.layer.0.attention.self.query.linear"):  # fmt: skip
        model = make_model("bert", torch.float32)
        fsdp.fully_shard(model.get_submodule(inner))
        with pytest.raises(RuntimeError, match="parameters that a forward reads must be whole, got parts: .*last, on"):
            fsdp.fully_shard(model)(**inputs)
    model = fsdp.fully_shard(make_model("t5", torch.float32))
    with pytest.raises(RuntimeError, match="before generate.. register_fsdp_forward_method"):
        model.generate(**inputs)
