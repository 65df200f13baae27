"""The best sequence of BIO labels in which an ``I-X`` follows ``B-X`` or ``I-X`` alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST = -1e30  # of an impossible label: still a number, so that sequences without a possible one compare


def predecessors(labels: Sequence[str]) -> Tensor:
    """Of each label the ids of the two that it may follow, (labels, 2) int64, the smaller first: of ``I-X`` those of
    ``B-X`` and ``I-X`` (``I-X`` twice where there is no ``B-X``), -1 of a label that may follow any.
    """
    ids = {label: number for number, label in enumerate(labels)}
    pairs = [
        sorted((number, ids.get(f"B-{label[2:]}", number))) if label.startswith("I-") else [-1, -1]
        for label, number in ids.items()
    ]
    return torch.tensor(pairs, dtype=torch.long)


def are_valid(labels: Tensor, follows: Tensor, continued: Tensor) -> Tensor:
    """Whether each sequence of ``labels`` (batch, words) int64 is valid, (batch,) bool; the rest as ``best_labels``."""
    allowed = follows.gather(1, labels[..., None].expand(-1, -1, 2))  # (batch, words, 2)
    before = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=-1)
    fits = (allowed == before[..., None]).any(-1) | (allowed[..., 0] < 0)
    fits[:, 0] |= continued
    return fits.all(1)


def best_labels(logits: Tensor, follows: Tensor, continued: Tensor) -> Tensor:
    """The valid sequence of labels y of the largest sum over words t of logits[t, y_t], which is the most probable one
    of independent words (Viterbi's algorithm, labels + I-labels steps a word; sums in float64).

    Of equal sequences it is the one with the smaller label id at the last word where they differ. A logit that is
    -inf, or NaN, is taken only where no other sequence is valid, and as rarely as can be.

    Args:
        logits: (batch, words, labels), any floating dtype; at least one word, and one label that may follow any.
        follows: (batch, labels, 2) int64, ``predecessors`` of each row's labels.
        continued: (batch,) bool, whether the first word may continue a span that began before it.

    Returns:
        (batch, words) int64 on the device of ``logits``.
    """
    scores = torch.nan_to_num(logits.double(), nan=_LEAST, posinf=-_LEAST, neginf=_LEAST)
    inside = follows[..., 0] >= 0  # (batch, labels)
    one, other = follows.clamp(min=0).unbind(-1)
    best, came_from = scores[:, 0].masked_fill(inside & ~continued[:, None], -torch.inf), []
    for word in range(1, scores.shape[1]):
        top, label = best.max(-1, keepdim=True)
        of_one, of_other = best.gather(1, one), best.gather(1, other)
        came_from.append(torch.where(inside, torch.where(of_other > of_one, other, one), label))
        best = torch.where(inside, torch.maximum(of_one, of_other), top) + scores[:, word]
    path = [best.argmax(-1, keepdim=True)]
    for label in reversed(came_from):
        path.append(label.gather(1, path[-1]))
    return torch.cat(path[::-1], 1)
