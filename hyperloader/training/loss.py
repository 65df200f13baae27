"""What one training step computes."""

from collections.abc import Sequence

from torch import Tensor, nn

from hyperloader.nn.loss import IGNORED, sequence_loss
from hyperloader.training.presets import TrainingOptions


def loss_of_shares(counts: Sequence[Tensor], examples: Sequence[int], options: TrainingOptions) -> float | None:
    """The loss a token of giving every label its share, whatever the sentence, with tasks drawn as in training.

    Args:
        counts: of each task's labels, how often it is met.
        examples: of each task, how many there are.

    Returns:
        None where the training's loss is another: a sum, or with smoothed labels.
    """
    if options.loss != "mean" or options.label_smoothing:
        return None
    loss = labelled = 0.0
    for of_labels, number in zip(counts, examples, strict=True):
        total = of_labels.sum().item()
        if total:
            shares = of_labels[of_labels > 0] / total
            tokens = total / number * number ** (1 / options.temperature)  # of a batch, but for a common factor
            loss += tokens * -(shares * shares.log()).sum().item()
            labelled += tokens
    return loss / labelled if labelled else None


class SummedLoss(nn.Module):
    """A model and its loss, summed over the labelled tokens of a batch."""

    def __init__(self, model: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, task_ids: Tensor) -> Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, task_ids=task_ids)
        if self.label_smoothing:
            return sequence_loss(output.logits, labels, "sum", self.label_smoothing)
        return output.loss * labels.ne(IGNORED).sum()
