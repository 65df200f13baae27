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
