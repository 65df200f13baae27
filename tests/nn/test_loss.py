import functools

import pytest
import torch
from torch.nn import functional

from hyperloader.config import KINDS
from hyperloader.nn.loss import loss_by_task, sequence_loss


@pytest.fixture
def batch():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (3, 5))
    labels[0, 2:] = -100
    return logits, labels


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_agrees_with_pytorch(batch, reduction, label_smoothing):
    logits, labels = batch
    expected = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction=reduction, label_smoothing=label_smoothing
    )
    found = sequence_loss(logits, labels, reduction, label_smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    (grad,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-15)


def test_is_the_published_loss_with_its_padding(batch):
    """transformers 3.5 pads labels with token 0 and leaves it out; the rest is smoothed over the whole vocabulary."""
    logits, labels = batch
    labels = labels.masked_fill(labels == 0, 3)  # 0 is no label there
    log_probabilities, total = logits.log_softmax(-1).tolist(), 0.0
    for row, of_row in zip(log_probabilities, labels.masked_fill(labels == -100, 0).tolist(), strict=True):
        for values, label in zip(row, of_row, strict=True):
            if label != 0:
                total += -0.9 * values[label] - 0.1 / len(values) * sum(values)
    assert sequence_loss(logits, labels, "sum", 0.1).item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_classes_at_minus_infinity_do_not_exist(batch, label_smoothing):
    logits, labels = batch
    wider = torch.cat([logits, torch.full((3, 5, 2), -torch.inf, dtype=torch.float64)], dim=-1)
    expected = sequence_loss(logits, labels, "sum", label_smoothing)
    found = sequence_loss(wider, labels, "sum", label_smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    (grad,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-15)


def test_a_batch_without_labels_gives_zero_and_no_gradient(batch):
    logits, labels = batch
    loss = sequence_loss(logits, torch.full_like(labels, -100), "mean", 0.1)
    assert loss == 0
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_half_precision_is_summed_in_float32(batch):
    logits, labels = batch
    loss = sequence_loss(logits.bfloat16(), labels, "sum")
    assert loss.dtype == torch.float32
    expected = sequence_loss(logits.bfloat16().double(), labels, "sum")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("reduction", "smoothing"), [("none", 0.0), ("sum", 1.0), ("sum", -0.1)])
def test_bad_arguments_are_refused(batch, reduction, smoothing):
    with pytest.raises(ValueError, match="must be"):
        sequence_loss(*batch, reduction, smoothing)


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_what_is_not_labelled_counts_nothing(monkeypatch, on_host, smoothing, reduction):
    """Whatever the logits there are, and whether labels are read, as on the CPU, or not, as on a GPU."""
    monkeypatch.setattr("hyperloader.nn.loss.values_on_host", lambda _: on_host)
    torch.manual_seed(0)
    labels = torch.tensor([[1, -100, 2], [-100, 0, -100]])
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    logits[1, 1, 3] = -torch.inf
    expected = sequence_loss(logits[labels != -100][None], labels[labels != -100][None], reduction, smoothing)
    for nothing in (-torch.inf, torch.nan, 1e300):
        logits[0, 1] = logits[1, 0] = logits[1, 2] = nothing
        leaf = logits.clone().requires_grad_()
        loss = sequence_loss(leaf, labels, reduction, smoothing)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert leaf.grad.isfinite().all()
        assert not leaf.grad[labels == -100].any()


def test_labels_of_another_shape():
    with pytest.raises(ValueError, match=r"labels must have shape \(2, 3\), got \(3, 2\)"):
        sequence_loss(torch.zeros(2, 3, 4), torch.zeros(3, 2).long())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_every_task_counts_by_its_sentences(label_smoothing):
    """Against each task's mean by PyTorch: a tagger, a classification, a regression and a multi-label task."""
    torch.manual_seed(0)
    kinds = torch.tensor([KINDS.index(kind) for kind in ("regression", "tagging", "classification", "multi-label")])
    tasks = torch.tensor([1, 0, 2, 1, 3, 0, 2])
    logits = torch.randn(7, 3, 4, dtype=torch.float64)
    logits[tasks == 0, :, 1:] = -torch.inf
    logits[tasks == 3, :, 3] = -torch.inf
    labels = torch.full((7, 3), -100)
    labels[0], labels[3], labels[2, 0], labels[6, 0] = torch.tensor([1, 2, 0]), torch.tensor([0, 0, -100]), 3, 1
    targets = torch.full((7, 3), torch.nan, dtype=torch.float64)
    targets[1, 0], targets[5, 0], targets[4] = 2.5, -1.0, torch.tensor([1.0, 0.0, 1.0])
    logits.requires_grad_()
    entropy = functools.partial(functional.cross_entropy, label_smoothing=label_smoothing)
    own = [
        (logits[[1, 5], 0, 0] - torch.tensor([2.5, -1.0])).square().mean() * 2 / 7,
        entropy(logits[[0, 0, 0, 3, 3], [0, 1, 2, 0, 1]], torch.tensor([1, 2, 0, 0, 0])) * 2 / 7,
        entropy(logits[[2, 6], 0], torch.tensor([3, 1])) * 2 / 7,
        functional.binary_cross_entropy_with_logits(logits[4, 0, :3], targets[4]) / 7,
    ]
    found = loss_by_task(logits, labels, targets, tasks, kinds, label_smoothing)
    torch.testing.assert_close(found, sum(own), rtol=1e-12, atol=0)
    (grad,), (expected,) = (torch.autograd.grad(one, logits) for one in (found, sum(own)))
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-15)


def test_one_task_alone_is_the_mean_as_ever(batch):
    logits, labels = batch
    kinds = torch.tensor([0, 1])
    for task in (0, torch.tensor(0), torch.tensor([0, 0, 0])):
        found = loss_by_task(logits, labels, None, task, kinds)
        torch.testing.assert_close(found, sequence_loss(logits, labels), rtol=1e-12, atol=0)
    assert loss_by_task(logits, torch.full_like(labels, -100), None, 0, kinds) == 0


def test_autocast_does_not_round_it():
    torch.manual_seed(0)
    logits, labels, kinds = torch.randn(4, 3, 5), torch.randint(0, 5, (4, 3)), torch.tensor([0, 1])
    tasks = torch.tensor([0, 1, 1, 0])
    expected = loss_by_task(logits, labels, None, tasks, kinds)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss_by_task(logits, labels, None, tasks, kinds), expected)
