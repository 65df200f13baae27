"""Backbones of no known family: sites named by the paths of their layers, with ``*`` for the number of a layer.

    model.layers.*.self_attn.q_proj             all outputs of a linear layer
    model.layers.*.attn.qkv[0:512]              those from 0 to 511, of a fused projection

A path begins in the backbone or in its base model: the same patterns fit a model with and without its head.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hyperloader.backbones.family import Stack, path_of_base
from hyperloader.config import ADAPTER_SITES
from hyperloader.nn.linears import Rows, is_linear, sizes_of
from hyperloader.validation import nearest, shown

_PATTERN = re.compile(r"(?P<before>[^*\[\]]*)\.\*\.(?P<after>[^*\[\]]+)(\[(?P<start>\d+):(?P<stop>\d+)\])?")


def stacks_of(backbone: nn.Module, sites: Mapping[str, Sequence[str]]) -> list[Stack]:
    """One stack for each path before a ``*``, named by it, from the base model on, with ``_`` for every dot.

    Args:
        sites: site -> patterns, one for each stack that has it.

    Raises:
        ValueError: a pattern that has another form, or matches nothing; a site that some layers of its stack lack; two
            sites of LoRA that share outputs.
    """
    found: dict[str, dict[int, dict[str, str]]] = {}
    slices: dict[str, dict[str, Rows]] = {}
    for site, patterns in sites.items():
        for pattern in patterns:
            match = _PATTERN.fullmatch(pattern)
            if match is None:
                raise ValueError(
                    f"sites[{site!r}] must be a path with one * such as model.layers.*.self_attn.q_proj, or with "
                    f"outputs behind it such as [0:512], got {shown(pattern)}"
                )
            before, after = _in_base(backbone, match["before"]), match["after"]
            for number, path in _matching(backbone, site, before, after).items():
                if site in found.setdefault(before, {}).setdefault(number, {}):
                    raise ValueError(f"sites[{site!r}] must name each layer once, got two for {before}.{number}")
                found[before][number][site] = path
            if match["start"] is not None:
                if site in ADAPTER_SITES:
                    raise ValueError(f"sites[{site!r}] must be all outputs, for an adapter, got {shown(pattern)}")
                slices.setdefault(before, {})[site] = (int(match["start"]), int(match["stop"]))
    return [_stack(backbone, before, layers, slices.get(before, {})) for before, layers in found.items()]


def linear_patterns(backbone: nn.Module) -> dict[str, list[str]]:
    """Pattern -> the paths that it matches, of all linear layers in lists of layers: with one number in their path."""
    found: dict[str, list[str]] = {}
    for path, module in backbone.named_modules():
        parts = path.split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
        if is_linear(module) and len(numbers) == 1 and 0 < numbers[0] < len(parts) - 1:
            found.setdefault(".".join([*parts[: numbers[0]], "*", *parts[numbers[0] + 1 :]]), []).append(path)
    return found


def _in_base(backbone: Any, path: str) -> str:
    """``path`` as it is in the base model."""
    return path.removeprefix(path_of_base(backbone) or f"{backbone.base_model_prefix}.")


def _matching(backbone: nn.Module, site: str, before: str, after: str) -> dict[int, str]:
    """Number of a layer -> path."""
    path = re.compile(rf"{re.escape(path_of_base(backbone) + before)}\.(\d+)\.{re.escape(after)}")
    matches = {name: path.fullmatch(name) for name, _ in backbone.named_modules()}
    found = {int(match[1]): name for name, match in matches.items() if match}
    if not found:
        pattern = f"{path_of_base(backbone)}{before}.*.{after}"
        kind, near = type(backbone).__name__, nearest(pattern, linear_patterns(backbone))
        raise ValueError(f"sites[{site!r}] must match layers of {kind}, got {pattern!r}, which matches none{near}")
    return found


def _stack(backbone: nn.Module, before: str, layers: Mapping[int, dict[str, str]], slices: Mapping[str, Rows]) -> Stack:
    everywhere = {site for sites in layers.values() for site in sites}
    for number, sites in layers.items():
        for site in everywhere - sites.keys():
            raise ValueError(f"sites[{site!r}] must match every layer of {before}, got none in layer {number}")
    stack = Stack(before.replace(".", "_"), [layers[number] for number in sorted(layers)], slices)
    for number, sites in enumerate(stack.layers):
        _check_rows(backbone, stack, number, [site for site in sites if site not in ADAPTER_SITES])
    return stack


def _check_rows(backbone: nn.Module, stack: Stack, layer: int, sites: Sequence[str]) -> None:
    """Raise ``ValueError`` for outputs that a layer has not, or that two sites share."""
    taken: dict[str, list[tuple[Rows, str]]] = {}
    for site in sites:
        path = stack.layers[layer][site]
        module = backbone.get_submodule(path)
        if not is_linear(module):
            continue  # which is said where all layers are looked at
        rows, (_, out_features) = stack.rows(backbone, layer, site), sizes_of(module)
        if not 0 <= rows[0] < rows[1] <= out_features:
            raise ValueError(f"sites[{site!r}] must be of the outputs [0:{out_features}] of {path}, got {list(rows)}")
        for (start, stop), other in taken.setdefault(path, []):
            if rows[0] < stop and start < rows[1]:
                raise ValueError(f"sites must not share outputs, got {other} and {site} for the same ones of {path}")
        taken[path].append((rows, site))
