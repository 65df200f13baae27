"""Whether tensors that are made now may serve later calls, and have values at all."""

import torch

from hyperloader.ops._transforms import active


def may_be_kept() -> bool:
    """Not inside a transformation of torch.func, a forward-mode derivative or FakeTensorMode: what is made there means
    nothing outside, and what was made outside has no derivative there."""
    return not active() and not shapes_alone()


def shapes_alone() -> bool:
    """Inside FakeTensorMode, where tensors have shapes and no values."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
