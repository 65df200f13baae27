"""What models around a backbone have in common. Their backbone may be compiled: names in it are those of the plain
one."""

from typing import Any

import torch
from torch import nn

from hyperloader.nn.index_buffers import outside_of_state, restore

_WRAPPER = "_orig_mod"  # where torch.compile keeps the module that it wraps


class WithBackbone(nn.Module):
    """A model with a ``backbone``. Of one that ``torch.compile`` has wrapped, ``backbone`` is the plain module, so that
    states and paths do not depend on it; ``run_backbone`` calls what was given."""

    _compiled: nn.Module | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "backbone":
            plain = without_compile(value)
            self.__dict__["_compiled"] = None if plain is value else value  # no submodule: it has the same parameters
            value = plain
        super().__setattr__(name, value)

    def run_backbone(self, **arguments: Any) -> Any:
        """The backbone's ``forward``, compiled if it was given so."""
        return (self.backbone if self._compiled is None else self._compiled)(**arguments)

    def _apply(self, fn, recurse=True):
        backbone = self._modules.get("backbone")  # None while a model is built, and after detach()
        lost = [] if backbone is None else [name for name, buffer in backbone.named_buffers() if buffer.is_meta]
        super()._apply(fn, recurse)
        if lost:
            restore(backbone, set(lost) & set(outside_of_state(backbone)))
        return self

    def to_empty(self, *, device: torch.device | str | int | None, recurse: bool = True) -> "WithBackbone":
        """As ``nn.Module.to_empty``; the backbone's index buffers, which no state holds, are right afterwards."""
        super().to_empty(device=device, recurse=recurse)
        restore(self.backbone, outside_of_state(self.backbone))
        return self

    @property
    def config(self) -> Any:
        """The backbone's transformers config, which Trainer and its kin look at; ours is ``hyperloader_config``."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's dtype."""
        return self.backbone.dtype


def without_compile(module: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` has wrapped, or ``module`` itself."""
    return getattr(module, _WRAPPER, module)


def plain_name(name: str) -> str:
    """``name`` of a parameter or module without what ``torch.compile`` puts into it."""
    return ".".join(part for part in name.split(".") if part != _WRAPPER)
