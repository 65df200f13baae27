"""Backbones that ``torch.compile`` has wrapped: the plain module, and names as they are in it."""

from typing import Any

_WRAPPER = "_orig_mod"  # where torch.compile keeps the module that it wraps


def without_compile(module: Any) -> Any:
    """The module that ``torch.compile`` has wrapped, or ``module`` itself."""
    return getattr(module, _WRAPPER, module)


def plain_name(name: str) -> str:
    """``name`` of a parameter or module without what ``torch.compile`` puts into it."""
    return ".".join(part for part in name.split(".") if part != _WRAPPER)
