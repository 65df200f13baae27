"""RowAdamW against one AdamW a row; clipping of sparse gradients."""

import copy

import pytest
import torch

from hyperloader.optim import RowAdamW, clip_grad_norm_

OPTIONS = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3}
MET = [[0, 2], [2], [2, 2, 4], [4, 0], [], [1, 2, 4, 1]]


def gradients(rows, dtype):
    """Two terms of a row that is named twice."""
    generator = torch.Generator().manual_seed(len(rows))
    values = torch.randn(len(rows), 3, generator=generator, dtype=dtype)
    return torch.sparse_coo_tensor([rows], values, (5, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_row_is_updated_as_if_it_were_alone(dtype):
    torch.manual_seed(0)
    whole, dense = torch.nn.Parameter(torch.randn(5, 3, dtype=dtype)), torch.nn.Parameter(torch.randn(4, dtype=dtype))
    alone = [torch.nn.Parameter(row.detach()[None].clone()) for row in whole]
    dense_alone = torch.nn.Parameter(dense.detach().clone())
    optimizer = RowAdamW([{"params": [whole]}, {"params": [dense], "weight_decay": 0.0}], **OPTIONS)
    reference = torch.optim.AdamW([{"params": alone}, {"params": [dense_alone], "weight_decay": 0.0}], **OPTIONS)
    for step, rows in enumerate(MET):
        whole.grad = gradients(rows, dtype)
        dense.grad = dense_alone.grad = torch.full((4,), float(step), dtype=dtype)
        for row, parameter in enumerate(alone):
            parameter.grad = whole.grad.to_dense()[row : row + 1] if row in rows else None
        if step == 3:  # the state is loaded into another one
            state, optimizer = optimizer.state_dict(), RowAdamW(optimizer.param_groups, **OPTIONS)
            optimizer.load_state_dict(copy.deepcopy(state))
        for one in (optimizer, reference):
            one.step()
        tolerance = {"rtol": 1e-12, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-7}
        torch.testing.assert_close(whole, torch.cat(alone), **tolerance)
        assert torch.equal(dense, dense_alone)
    assert optimizer.state[whole]["step"].tolist() == [2, 1, 4, 0, 3]
    assert torch.equal(whole[3], alone[3][0]) and whole.grad.is_sparse


def test_hooks_run_once_a_step_and_a_closure_is_called():
    parameter = torch.nn.Parameter(torch.ones(2))
    torch.optim.AdamW([parameter])  # PyTorch wraps the step of a class with its first instance
    optimizer, calls = RowAdamW([parameter], lr=0.1), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2 and calls == [1] and (parameter < 1).all()


def test_clipping():
    sparse, dense = torch.nn.Parameter(torch.zeros(5, 3)), torch.nn.Parameter(torch.zeros(2))
    sparse.grad, dense.grad = gradients([2, 0, 2], torch.float32), torch.tensor([3.0, 4.0])
    whole = torch.cat([sparse.grad.to_dense().flatten(), dense.grad])
    total = clip_grad_norm_([sparse, dense], 0.5)
    torch.testing.assert_close(total, whole.norm())
    found = torch.cat([sparse.grad.to_dense().flatten(), dense.grad])
    torch.testing.assert_close(found, whole * 0.5 / (whole.norm() + 1e-6))


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler(fused):
    """Of a scaled loss the same steps; one with an infinite gradient is left out, of rows and of all else."""
    ends = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**16)):
        torch.manual_seed(0)
        rows, dense = torch.nn.Embedding(5, 3, sparse=True), torch.nn.Linear(3, 2)
        optimizer = RowAdamW([*rows.parameters(), *dense.parameters()], **OPTIONS, fused=fused)
        for factor in (1.0, float("inf"), 1.0):
            if scaler is None and factor != 1.0:
                continue
            optimizer.zero_grad()
            loss = dense(rows(torch.tensor([0, 2, 2]))).square().sum() * factor
            (loss if scaler is None else scaler.scale(loss)).backward()
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        ends.append([one.detach() for one in (*rows.parameters(), *dense.parameters())])
        state = optimizer.state[rows.weight]["exp_avg"]
        ends[-1].append(state)
    assert scaler.get_scale() == 2.0**15
    for expected, found in zip(*ends, strict=True):
        torch.testing.assert_close(found, expected)


def test_what_rows_do_not_have_is_refused():
    for name in ("maximize", "amsgrad"):
        with pytest.raises(ValueError, match=f"{name} must be False, got True"):
            RowAdamW([{"params": [torch.nn.Parameter(torch.ones(2))], name: True}])


def test_one_tensor_is_clipped():
    rows = torch.nn.Parameter(torch.ones(5, 3))
    rows.grad = gradients([1, 1], torch.float32)
    norm = clip_grad_norm_(rows, 0.5)
    assert norm > 0.5
    torch.testing.assert_close(rows.grad.coalesce().values().norm(), torch.tensor(0.5))
