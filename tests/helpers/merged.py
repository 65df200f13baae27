"""What models of `tiny` compute, for the tests of merged ones."""

import torch
from helpers.tiny import SEQUENCE_TO_SEQUENCE, make_batch


@torch.no_grad()
def logits(model, name, **selected):
    batch = make_batch(name)
    if name not in SEQUENCE_TO_SEQUENCE:
        del batch["labels"]
    return model(**batch, **selected).logits
