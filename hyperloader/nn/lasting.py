"""Whether tensors that are made now may serve later calls."""

import torch

from hyperloader.ops._transforms import active


def may_be_kept() -> bool:
    """Not inside a transformation of torch.func, a forward-mode derivative or FakeTensorMode: what is made there means
    nothing outside, and what was made outside has no derivative there."""
    return not active() and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is None
