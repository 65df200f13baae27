"""A run with ``model.sparse_gradients``."""

from types import SimpleNamespace

import pytest
import torch
from helpers import tiny

from hyperloader.optim import RowAdamW
from hyperloader.training import trainer as module
from hyperloader.training.folders import checkpoints
from hyperloader.training.optimizer import clip_sparse, exchange_sparse
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig
from hyperloader.training.saved_run import load_run


def config_of(data, bert, output, **changes):
    training = {"steps": 6, "batch_size": 4, "eval_steps": 3, "save_steps": 3, "report_to": "none", "weight_decay": 0.1}
    values = {
        "backbone": str(bert),
        "tasks": str(data / "tasks.yaml"),
        "output": str(output),
        "model": {"reduction_factor": 4, "sparse_gradients": True},
        "training": training | changes,
    }
    return RunConfig.from_dict(values)


def test_trained_and_resumed(data, bert, tmp_path, monkeypatch):
    found = []
    step = RowAdamW.step

    def watched(self, *arguments):
        gradients = [one.grad for group in self.param_groups for one in group["params"] if one.grad is not None]
        squares = [(one._values() if one.is_sparse else one).square().sum() for one in gradients]
        found.append((sum(one.is_sparse for one in gradients), sum(squares).sqrt().item()))
        return step(self, *arguments)

    monkeypatch.setattr(RowAdamW, "step", watched)
    metrics = train(config_of(data, bert, tmp_path / "whole", max_grad_norm=0.01), progress=False)
    assert metrics["steps"] == 6 and [sparse for sparse, _ in found] == [3] * 6
    assert [norm for _, norm in found] == pytest.approx([0.01] * 6, rel=1e-3)

    def stop(*_):
        raise KeyboardInterrupt

    evaluate = module.MultiTaskTrainer.evaluate
    monkeypatch.setattr(
        module.MultiTaskTrainer,
        "evaluate",
        lambda self, *a, **o: stop() if self.state.global_step > 3 else evaluate(self, *a, **o),
    )
    config = config_of(data, bert, tmp_path / "resumed", max_grad_norm=0.01)
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False)
    assert [one.name for one in checkpoints(tmp_path / "resumed")] == ["checkpoint-3"]
    monkeypatch.undo()
    train(config, resume=True, progress=False)
    models = [load_run(tmp_path / name).model for name in ("whole", "resumed")]
    assert all(len(list(model.heads.parameters())) == 2 for model in models)
    states = [
        torch.load(next((tmp_path / name).glob("checkpoint-6")) / "optimizer.pt") for name in ("whole", "resumed")
    ]
    for one, two in zip(*(state["state"].values() for state in states), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert {one["step"].ndim for one in states[0]["state"].values()} == {0, 1}
    groups = states[0]["param_groups"]  # of everything else and of the heads, those that decay and biases
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    assert [len(group["params"]) for group in groups[2:]] == [1, 1]
    assert groups[2]["initial_lr"] == groups[3]["initial_lr"] == 960 / 32 * groups[0]["initial_lr"]


def test_another_optimizer_is_refused(data, bert, tmp_path):
    with pytest.raises(ValueError, match="optimizer must be adamw_torch with model.sparse_gradients, got adamw_hf"):
        config_of(data, bert, tmp_path, optimizer="adamw_hf")


def test_sharded_parameters_are_refused():
    with pytest.raises(ValueError, match="model.sparse_gradients must be false with FSDP, which shards parameters"):
        clip_sparse(SimpleNamespace(distributed_type="FSDP"))


def test_data_parallel_processes_gather_rows(monkeypatch):
    """By the hook, which a group of one process runs too."""
    dist = pytest.importorskip("torch.distributed")
    if not dist.is_available():
        pytest.skip("this build of torch has no torch.distributed")
    from hyperloader import row_exchange

    gathered, called = row_exchange._gathered, []
    monkeypatch.setattr(row_exchange, "_gathered", lambda *a: called.append(1) or gathered(*a))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = tiny.make_model("bert", torch.float32, sparse_gradients=True).train()
        batch = tiny.make_batch("bert")
        model(**batch, task_ids=tiny.TASK_IDS).loss.backward()
        expected = {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}
        model.zero_grad()
        together = torch.nn.parallel.DistributedDataParallel(model)
        exchange_sparse(together)
        together(**batch, task_ids=tiny.TASK_IDS).loss.backward()
    finally:
        dist.destroy_process_group()
    assert len(called) == 2 * 3  # rows and numbers of the task embedding, the heads and their biases
    for name, grad in expected.items():
        found = model.get_parameter(name).grad
        assert found.is_sparse == grad.is_sparse, name
        torch.testing.assert_close(found.to_dense(), grad.to_dense(), msg=name)
    exchange_sparse(model)  # of one process: nothing to do
