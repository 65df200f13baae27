"""What one training step computes."""

from torch import Tensor, nn

from hyperloader.nn.loss import IGNORED, sequence_loss


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
