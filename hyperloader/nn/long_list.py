"""A list of thousands of modules, whose state loads in a time that their number is a factor of, not its square."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LongList(nn.ModuleList):
    """An ``nn.ModuleList``, the same but for the time that ``load_state_dict`` takes.

    PyTorch looks through the state of all modules of a list for each of them. Here the list copies what fits; what does
    not, or is to be assigned instead of copied, is left to its module, which says what is wrong.
    """

    def __init__(self, modules: Iterable[nn.Module] | None = None) -> None:
        super().__init__(modules)
        self._loaded: set[str] = set()
        self.register_load_state_dict_post_hook(_found)

    @torch.no_grad()
    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        self._loaded.clear()
        if local_metadata.get("assign_to_params_buffers"):
            return
        for name, parameter in self.named_parameters(prefix.removesuffix(".")):
            given = state_dict.get(name)
            if (
                isinstance(given, Tensor)
                and given.shape == parameter.shape
                and not (given.is_meta or parameter.is_meta)
            ):
                parameter.copy_(given)
                del state_dict[name]  # of the copy that PyTorch has made
                self._loaded.add(name)


def _found(modules: LongList, keys: Any) -> None:
    """Take from ``keys``, those missing and unexpected, what the modules miss that has been loaded."""
    keys.missing_keys[:] = [key for key in keys.missing_keys if key not in modules._loaded]
    modules._loaded.clear()
