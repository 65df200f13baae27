"""TaskHeads: a mixed batch gives what each task's own head gives."""

import torch

from hyperloader.nn.heads import TaskHeads

LABELS = {"a": ["O", "B-x", "I-x"], "b": ["O"], "c": ["O", "B-y", "I-y", "B-z"]}


def test_mixed_batch_is_every_sentence_with_its_own_head():
    heads = TaskHeads(5, LABELS).double()
    hidden_states = torch.randn(4, 3, 5, dtype=torch.float64)
    tasks = torch.tensor([2, 0, 1, 2])
    logits = heads(hidden_states, tasks)
    assert logits.shape == (4, 3, 4)
    for row, task in enumerate(tasks.tolist()):
        alone = heads(hidden_states[row : row + 1], task)[0]
        torch.testing.assert_close(logits[row, :, : alone.shape[-1]], alone, rtol=0, atol=1e-14)
        assert (logits[row, :, alone.shape[-1] :] == -torch.inf).all()


def test_gradients_stay_with_the_tasks_of_the_batch():
    heads = TaskHeads(5, LABELS)
    heads(torch.randn(2, 3, 5), torch.tensor([0, 2]))[..., 0].sum().backward()
    assert heads.heads[0].weight.grad.any()
    assert not heads.heads[1].weight.grad.any()
