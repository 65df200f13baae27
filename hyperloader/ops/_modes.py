"""What the mode that PyTorch is in allows: reading values without waiting, keeping tensors for later calls."""

import torch
from torch import Tensor

from hyperloader.ops._transforms import active


def values_on_host(tensor: Tensor) -> bool:
    """Whether reading the values of ``tensor`` costs no wait for a device; in a trace and in FakeTensorMode there are
    none."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not _tensors_are_fake()


def serves_any(size: int | torch.SymInt) -> bool:
    """Whether a program is being exported that is to serve batches of any ``size``: it may not ask how large one is."""
    return isinstance(size, torch.SymInt) and getattr(torch.compiler, "is_exporting", bool)()


def may_be_kept() -> bool:
    """Whether tensors made now may serve later calls.

    Not inside a transformation of torch.func, a forward-mode derivative or FakeTensorMode: tensors made there mean
    nothing outside, and tensors made outside have no derivative there.
    """
    return not active() and not _tensors_are_fake()


def _tensors_are_fake() -> bool:
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
