"""Embeddings and heads of tasks in words, against what can be written down by hand, in float64."""

import pytest
import torch
from helpers.words import mapped

from hyperloader.nn.described import DescribedEmbedding, DescribedHeads, TextMap
from hyperloader.nn.heads import TaskHeads

LABELS = {"a": ["O", "B-x", "I-x"], "b": ["yes", "no"], "c": ["O"]}
KINDS = {"b": "classification"}


def embedding(row_dropout=0.5):
    torch.manual_seed(0)
    part = DescribedEmbedding([3, 1, 2], 4, 8, row_dropout).double()
    torch.nn.init.normal_(part.weight)
    part.texts.copy_(torch.randn(6, 8))
    return part


def heads(row_dropout=0.5):
    torch.manual_seed(0)
    part = DescribedHeads(5, LABELS, 0.0, KINDS, 8, row_dropout).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    part.texts.copy_(torch.randn(6, 8))
    return part


def test_an_embedding_is_its_row_and_the_map_of_its_first_phrasing():
    part = embedding().eval()
    expected = part.weight + mapped(part, part.texts[[0, 3, 4]])
    torch.testing.assert_close(part(torch.tensor([2, 0, 1])), expected[[2, 0, 1]])
    with torch.no_grad():
        part.weight[1] = 0
    torch.testing.assert_close(part(torch.tensor([1]))[0], mapped(part, part.texts[3]))


def test_a_new_embedding_is_of_the_size_of_rows_and_moves_by_the_learning_rate():
    torch.manual_seed(0)
    part = DescribedEmbedding([1], 2000, 64, 0.5)
    part.texts.copy_(torch.randn(1, 64))
    before = part.eval()(torch.tensor([0]))
    assert not part.weight.any()
    assert abs(before.std().item() - 1) < 0.1
    part.words.weight.grad = torch.sign(torch.nn.functional.layer_norm(part.texts, (64,))).expand(2000, 64).clone()
    torch.optim.Adam([part.words.weight], lr=0.01).step()
    moved = (before - part(torch.tensor([0]))).mean().item()
    assert moved == pytest.approx(0.01, rel=0.2)


def test_training_drops_rows_and_draws_phrasings():
    part, tasks = embedding(0.25).train(), torch.tensor([0, 1, 2])
    words, counts = mapped(part, part.texts), dict[tuple, int]()
    for _ in range(500):
        for task, found in enumerate(part(tasks)):
            row = [[0, 1, 2], [3], [4, 5]][task]
            cases = {(keep, text): keep * part.weight[task] + words[text] for keep in (0, 1) for text in row}
            (case,) = [case for case, expected in cases.items() if torch.allclose(found, expected)]
            key = (task, *case)
            counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 12, "every phrasing with and without the row"
    dropped = sum(count for (_, keep, _), count in counts.items() if not keep) / 1500
    assert abs(dropped - 0.25) < 0.04
    assert abs(sum(counts[0, keep, 1] for keep in (0, 1)) / 500 - 1 / 3) < 0.08


def test_what_is_drawn_depends_on_the_seed_alone():
    part, tasks = embedding().train(), torch.tensor([0, 1, 2])
    torch.manual_seed(3)
    state, first = torch.get_rng_state(), torch.stack([part(tasks) for _ in range(5)])
    torch.set_rng_state(state)
    assert torch.equal(torch.stack([part(tasks) for _ in range(5)]), first)
    assert not torch.equal(torch.stack([part(tasks) for _ in range(5)]), first)


@pytest.mark.parametrize("make", [embedding, heads])
def test_nothing_is_dropped_while_the_map_is_frozen(make):
    part = make(0.9)
    arguments = (torch.tensor([0, 2]),) if make is embedding else (torch.ones(2, 3, 5).double(), torch.tensor([0, 2]))
    before = part.eval()(*arguments)
    part.words.weight.requires_grad_(False)
    assert torch.equal(part.train()(*arguments), before)


def test_heads_are_their_rows_and_the_map_of_their_labels():
    part, states = heads().eval(), torch.randn(3, 4, 5).double()
    words = mapped(part, part.texts)
    weights = [head.weight + words[first : first + head.out_features, :-1]
               for head, first in zip(part.heads, (0, 3, 5), strict=True)]  # fmt: skip
    biases = [head.bias + words[first : first + head.out_features, -1]
              for head, first in zip(part.heads, (0, 3, 5), strict=True)]  # fmt: skip
    mixed = part(states, torch.tensor([0, 1, 2]))
    for task in range(3):
        read = states[task].mean(0).expand(4, 5) if task == 1 else states[task]
        expected = read @ weights[task].T + biases[task]
        torch.testing.assert_close(mixed[task, :, : len(biases[task])], expected)
        torch.testing.assert_close(part(states[task : task + 1], task)[0], expected)
        assert torch.equal(part.of(task)(states[task : task + 1], 0), part(states[task : task + 1], task))
        assert type(part.of(task)) is TaskHeads
        assert not [name for name in part.of(task).state_dict() if not name.startswith("heads.0.")]


def test_training_drops_the_rows_of_heads():
    part, states = heads(0.25).train(), torch.randn(3, 4, 5).double()
    tasks, words = torch.tensor([0, 1, 2]), mapped(part, part.texts)[:, :-1]
    bias = mapped(part, part.texts)[:, -1]
    alone = states[2] @ words[5:].T + bias[5:]
    full = part.eval()(states, tasks)[2, :, :1]
    part.train()
    found = [part(states, tasks)[2, :, :1] for _ in range(400)] + [part(states[2:], 2)[0] for _ in range(400)]
    dropped = [torch.allclose(one, alone) for one in found]
    assert all(one or torch.allclose(other, full) for one, other in zip(dropped, found, strict=True))
    assert abs(sum(dropped[:400]) / 400 - 0.25) < 0.08
    assert abs(sum(dropped[400:]) / 400 - 0.25) < 0.08


@pytest.mark.parametrize("task_ids", [1, torch.tensor([0, 1, 1])])
def test_everything_takes_part_in_every_step(task_ids):
    """Also what is dropped, so that processes may draw differently; the gradients are those of the formula."""
    part, states = heads(0.999).train(), torch.randn(3, 4, 5).double()
    logits = part(states, task_ids)
    logits.masked_fill(logits == -torch.inf, 0).square().sum().backward()
    assert all(parameter.grad is not None for parameter in part.parameters())
    assert part.words.weight.grad.any()
    own = embedding(0.999).train()
    own(torch.tensor([0, 1])).square().sum().backward()
    assert all(parameter.grad is not None for parameter in own.parameters())
    assert own.words.weight.grad.any() and not own.weight.grad.any()


def test_gradients_of_the_map():
    part, text = TextMap(8, 3, 1.0).double(), torch.randn(2, 8).double()

    def call(weight):
        return torch.func.functional_call(part, {"weight": weight}, (text,))

    assert torch.autograd.gradcheck(call, (part.weight.detach().requires_grad_(),))


def test_what_is_in_no_state_follows():
    """Places of texts, made again on memory that was empty."""
    with torch.device("meta"):
        part = DescribedEmbedding([2, 1], 4, 8, 0.0)
    part.to_empty(device="cpu")
    assert part.starts.tolist() == [0, 2]
    part.append_texts(torch.ones(3, 8))
    assert (part.starts.tolist(), part.counts.tolist(), tuple(part.texts.shape)) == ([0, 2, 3], [2, 1, 3], (6, 8))


def test_a_batch_takes_the_words_of_its_tasks_alone():
    """And drops what it would drop with all of them."""
    labels = {str(task): ["O", *(f"B-{kind}" for kind in range(task % 3))] for task in range(30)}
    part = DescribedHeads(5, labels, 0.0, None, 8, 0.5).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    part.texts.copy_(torch.randn(part.texts.shape))
    states, tasks = torch.randn(4, 3, 5).double(), torch.tensor([29, 3, 29, 11])
    for seed in range(8):
        torch.manual_seed(seed)
        expected = part.train()(states, tasks), torch.rand(1)
        torch.manual_seed(seed)
        with torch.no_grad():
            torch.testing.assert_close((part(states, tasks), torch.rand(1)), expected)
