"""Properties of a saved model that its class and config do not restore: untied parameters, norms in float32."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from hyperloader.nn.norms import HALF, keep_in_float32
from hyperloader.validation import shown


def untie(model: nn.Module, names: Iterable[str]) -> None:
    """Give parameters that the class ties to others memory of their own: T5 v1.1's ``lm_head``, say.

    Raises ``AttributeError`` for a name that leads nowhere.
    """
    for name in names:
        path, _, own = name.rpartition(".")
        parameter = model.get_parameter(name)
        setattr(model.get_submodule(path), own, nn.Parameter(torch.empty_like(parameter), parameter.requires_grad))


def keep_norms_in_float32(backbone: nn.Module, norms: Mapping[str, str], where: object) -> None:
    """Have ``norms``, path -> dtype of what they return, computed in the dtype of their weights.

    Raises ``ValueError``, beginning with ``where``, for a path that names no norm, or an unknown dtype.
    """
    if not isinstance(norms, Mapping):
        raise ValueError(f"{where}: norms must map paths to dtypes, got {shown(norms)}")
    modules = dict(backbone.named_modules())
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in HALF}
    for path, name in norms.items():
        if not isinstance(name, str) or name not in dtypes:
            raise ValueError(f"{where}: norms must be in {' or '.join(dtypes)}, got {shown(name)} for {shown(path)}")
        if not isinstance(getattr(modules.get(path), "weight", None), nn.Parameter):
            raise ValueError(f"{where}: norms must name the backbone's, got {shown(path)}")
        keep_in_float32(modules[path], dtypes[name])
