"""What the mode that PyTorch is in allows: reading values without waiting, keeping tensors for later calls."""

import torch
from torch import Tensor

from hyperloader.ops._transforms import active


def values_on_host(tensor: Tensor) -> bool:
    """Whether reading the values of ``tensor`` costs no wait for a device; in a trace and in FakeTensorMode there are
    none."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not _tensors_are_fake()


def may_be_kept() -> bool:
    """Whether tensors made now may serve later calls.

    Not inside a transformation of torch.func, a forward-mode derivative or FakeTensorMode: tensors made there mean
    nothing outside, and tensors made outside have no derivative there.
    """
    return not active() and not _tensors_are_fake()


def _tensors_are_fake() -> bool:
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
