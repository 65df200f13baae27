"""The loss over labelled tokens, and over the sentences of tasks of several kinds."""

import torch
from torch import Tensor
from torch.nn import functional

from hyperloader.config import KINDS, REGRESSION
from hyperloader.ops._modes import values_on_host

IGNORED = -100  # the label of a token without one


def sequence_loss(logits: Tensor, labels: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy over the labelled tokens: ``(1 - e) * -log p(label) + e * mean over classes of -log p(class)``.

    Args:
        logits: (batch, tokens, classes). A class at ``-inf`` does not exist for that token and takes no part in the
            smoothing either.
        labels: (batch, tokens) int64, ``-100`` for a token without a label.
        reduction: ``sum`` or ``mean`` over the labelled tokens; without any, the loss is zero.
        label_smoothing: ``e``, at least 0 and below 1.

    Returns:
        A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: an unknown reduction, a smoothing outside its range, labels of another shape.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be sum or mean, got {reduction!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
    check_shape(labels, logits)
    labelled = labels != IGNORED
    count: int | Tensor
    if values_on_host(labels):  # only the labelled rows are computed
        logits, labels = logits[labelled], labels[labelled]
        count = max(1, len(labels))
    else:  # the device alone knows how many there are; the other rows are computed from zeros, whatever they hold
        logits, labels = logits.masked_fill(~labelled[..., None], 0).flatten(0, -2), labels.flatten()
        count = labelled.sum().clamp_min(1)
    logits = _in_float32(logits)
    log_probabilities = functional.log_softmax(logits, dim=-1)
    total = functional.nll_loss(log_probabilities, labels, ignore_index=IGNORED, reduction="sum")
    if label_smoothing:
        uniform = _uniform(log_probabilities, logits)
        total = (1 - label_smoothing) * total + label_smoothing * uniform.masked_fill(labels == IGNORED, 0).sum()
    return total if reduction == "sum" else total / count


def loss_by_task(
    logits: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    tasks: int | Tensor,
    kinds: Tensor,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """``sum over tasks of n_t / n * L_t``: each task's mean loss, weighted by its share of the batch's n sentences, so
    that no task counts for its many tokens.

    ``L_t`` is the mean over the task's labelled tokens of ``sequence_loss``, of a classification thus over its
    sentences, whose label stands at the first token. Of a regression it is the mean of ``(logit - target)**2``, of a
    multi-label task the mean over sentences and labels of the binary cross-entropy.

    Args:
        logits: (batch, tokens, columns), -inf where a task has no column; of whole sentences the same at every token.
        labels: (batch, tokens) int64, -100 where nothing is labelled.
        targets: (batch, numbers), NaN where a sentence has none; None where no sentence has any.
        tasks: the task of the batch, or of each sentence, int64 (batch,) or ().
        kinds: (tasks,) int64, each task's place in ``KINDS``.
        label_smoothing: as in ``sequence_loss``; regressions and multi-label tasks have none.
        weights: (tasks,), what ``label_weights`` returns for this batch, which is the default, or for several.

    Returns:
        A scalar in float32 (float64 for float64 logits).
    """
    logits = _in_float32(logits)
    if isinstance(tasks, int):
        tasks = torch.full(logits.shape[:1], tasks, device=logits.device)
    tasks = tasks.expand(logits.shape[0])
    labelled = labels != IGNORED
    of_tokens = logits.masked_fill(~labelled[..., None], 0)
    log_probabilities = functional.log_softmax(of_tokens, dim=-1)
    losses = -log_probabilities.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    if label_smoothing:
        uniform = _uniform(log_probabilities, of_tokens)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    sums, counts = losses.masked_fill(~labelled, 0).sum(-1), labelled.sum(-1)
    if targets is not None:
        of_numbers = _losses_of_numbers(logits[:, 0], targets, kinds[tasks] == KINDS.index(REGRESSION))
        given = ~targets.isnan()
        sums, counts = sums + of_numbers.sum(-1) / given.sum(-1).clamp_min(1), counts + given.any(-1)
    if weights is None:
        of_task = (tasks[:, None] == torch.arange(len(kinds), device=tasks.device)).to(sums.dtype)  # (batch, tasks)
        weights = label_weights((counts[:, None] * of_task).sum(0), of_task.sum(0))
    return (sums * weights[tasks]).sum()


def label_weights(labels: Tensor, sentences: Tensor) -> Tensor:
    """``n_t / (n * c_t)``: what each label of a task counts in ``loss_by_task``, given how many ``labels`` c_t and
    ``sentences`` n_t of each task there are, (tasks,) each."""
    return sentences / labels.clamp_min(1) / sentences.sum().clamp_min(1)


def text_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Of every labelled token the cross-entropy, and the number of its sentence.

    Args:
        logits: (batch, tokens, vocabulary). labels: (batch, tokens) int64, -100 where nothing is labelled.
        label_smoothing: as in ``sequence_loss``.

    Returns:
        float32 (float64 for float64 logits) and int64, each (labelled tokens,).
    """
    check_shape(labels, logits)
    labelled = labels != IGNORED
    rows = _in_float32(logits[labelled])
    losses = functional.cross_entropy(rows, labels[labelled], reduction="none", label_smoothing=label_smoothing)
    return losses, labelled.nonzero()[:, 0]


def text_loss_by_task(
    logits: Tensor, labels: Tensor, tasks: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """As ``loss_by_task``, of tasks whose answers are text: each task's mean over its labelled tokens, weighted by its
    share of the batch's sentences. ``tasks``: (batch,) int64; the rest as ``text_losses``."""
    losses, sentences = text_losses(logits, labels, label_smoothing)
    if weights is not None:
        return (losses * weights[tasks][sentences]).sum()
    same = tasks[:, None] == tasks  # (batch, batch): of one task
    tokens = torch.bincount(sentences, minlength=len(tasks))  # of each sentence
    of_sentence = same.sum(1).to(losses.dtype) / (same * tokens).sum(1).clamp_min(1) / len(tasks)
    return (losses * of_sentence[sentences]).sum()


def _in_float32(logits: Tensor) -> Tensor:
    """``logits``, those of half precision in float32."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _uniform(log_probabilities: Tensor, logits: Tensor) -> Tensor:
    """Of every token the mean of -log p over the classes that it has, those whose logits are not -inf."""
    exists = logits != -torch.inf
    return -log_probabilities.masked_fill(~exists, 0).sum(-1) / exists.sum(-1)


def _losses_of_numbers(logits: Tensor, targets: Tensor, regression: Tensor) -> Tensor:
    """(batch, numbers): squared error or binary cross-entropy, 0 where ``targets`` are NaN."""
    given = ~targets.isnan()
    missing = targets.shape[-1] - logits.shape[-1]
    logits = functional.pad(logits, (0, max(0, missing)))[:, : targets.shape[-1]].masked_fill(~given, 0)
    targets = targets.nan_to_num().to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return torch.where(regression[:, None], (logits - targets).square(), entropy).masked_fill(~given, 0)


def check_shape(labels: Tensor, logits: Tensor) -> None:
    """Raise ``ValueError`` unless there is one label for every token of ``logits`` (batch, tokens, classes)."""
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels must have shape {tuple(logits.shape[:-1])}, got {tuple(labels.shape)}")
