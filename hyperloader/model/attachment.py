"""Attaching to a backbone and detaching from it: its weights are neither copied nor changed."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from hyperloader.backbones import Stack, find_norms, find_stacks, shared_positions
from hyperloader.backbones.cross_attention_bias import set_cross_attention_bias
from hyperloader.config import ADAPTER_SITES, MORE_LORA_SITES, HyperLoaderConfig
from hyperloader.nn.layout import LayerSites, Layout, SiteKey, layout_of
from hyperloader.nn.linears import Rows, sizes_of
from hyperloader.nn.norms import HALF, keep_in_float32, undo_keep_in_float32, weights_to_float32
from hyperloader.nn.quantized import keep_unpacked, let_pack, quantized_layers
from hyperloader.nn.site_weights import ActiveWeights
from hyperloader.nn.sites import Site, WrappedLinear, frozen, unwrapped, wrapped
from hyperloader.validation import A_FEW, listed


class Attachment:
    """The wrapped layers of one backbone, and all that is needed to undo it.

    Wraps every site in place, freezes the backbone and, with ``train_norms``, lets its own norms be trained.
    """

    def __init__(self, backbone: nn.Module, config: HyperLoaderConfig, active: ActiveWeights) -> None:
        if any(isinstance(module, Site) for module in backbone.modules()):
            raise ValueError(
                "backbone must be free, got one that is attached already: call detach() on its model first"
            )
        stacks = find_stacks(backbone, config.sites)
        self.layouts = {stack.name: _layout(backbone, stack, config) for stack in stacks}
        wanted = {*config.adapter_sites, *config.lora_sites}
        _check_asked_for(backbone, stacks, config)
        if not any(layout.shapes for layout in self.layouts.values()):
            raise ValueError(
                f"adapter_sites and lora_sites must name a site that {type(backbone).__name__} has, got "
                f"{', '.join(wanted) or 'none'}"
            )
        self.kept_unpacked = keep_unpacked(backbone)
        self.requires_grad = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
        self.norm_names = find_norms(backbone) if config.train_norms else []
        self.norms: dict[str, Tensor] = {}
        self.added_bias = False  # whether the bias of the cross-attention came with the model
        self.site_paths = _sites_of_layers(backbone, stacks, wanted)
        for path, sites in self.site_paths.items():
            replace(backbone, path, wrapped(backbone.get_submodule(path), sites, active, config))
        self.frozen_paths = _freeze_quantized(backbone)
        for parameter in backbone.parameters():
            parameter.requires_grad_(False)
        for name in self.norm_names:
            parameter = backbone.get_parameter(name)
            is_half = parameter.dtype in HALF  # training then uses new memory, and this one keeps its values
            self.norms[name] = parameter.data if is_half else parameter.detach().clone()  # to be given back
            parameter.requires_grad_(True)
        for norm in self._norms_of(backbone):
            keep_in_float32(norm)
        shared_positions.project_for_each_sentence(backbone)

    @contextmanager
    def as_before(self, backbone: nn.Module) -> Iterator[None]:
        """Inside the block ``backbone`` computes what it did before; its parameters keep their names."""
        wrapped = {path: backbone.get_submodule(path) for path in self.site_paths}
        norms = {name: backbone.get_parameter(name) for name, value in self.norms.items() if not value.is_meta}
        trained = {name: parameter.data for name, parameter in norms.items()}
        try:
            for path, site in wrapped.items():
                replace(backbone, path, unwrapped(site))
            for name, parameter in norms.items():
                parameter.data = self.norms[name].to(parameter.device, parameter.dtype)
            yield
        finally:
            for name, parameter in norms.items():
                parameter.data = trained[name]
            for path, site in wrapped.items():
                replace(backbone, path, site)

    def undo(self, backbone: nn.Module) -> None:
        """Unwrap every site, and give every parameter its value and ``requires_grad`` from before."""
        for path in (*self.site_paths, *self.frozen_paths):
            replace(backbone, path, unwrapped(backbone.get_submodule(path)))
        let_pack(self.kept_unpacked)
        shared_positions.project_once(backbone)
        with torch.no_grad():
            for name, value in self.norms.items():
                _give_back(backbone, name, value)
        for norm in self._norms_of(backbone):
            undo_keep_in_float32(norm)
        for name, requires_grad in self.requires_grad.items():
            parameter = backbone.get_parameter(name)
            parameter.requires_grad_(requires_grad)
            parameter.grad = None
        if self.added_bias:
            set_cross_attention_bias(backbone, None)

    def norms_to_float32(self, backbone: nn.Module) -> None:
        """Give the trained norms float32 weights again, after a merged model was cast as a whole."""
        for norm in self._norms_of(backbone):
            weights_to_float32(norm)

    def recompute_norms(self, backbone: nn.Module, enable: bool) -> None:
        """Say whether LoRA makes the outputs of trained norms again in the backward."""
        for norm in self._norms_of(backbone):
            norm.recomputed = enable

    def recomputes_norms(self, backbone: nn.Module) -> bool:
        """Whether ``recompute_norms`` is enabled."""
        return any(norm.recomputed for norm in self._norms_of(backbone))

    def _norms_of(self, backbone: nn.Module) -> list[Any]:
        """The modules whose parameters ``norm_names`` are, each once."""
        return [backbone.get_submodule(path) for path in dict.fromkeys(n.rpartition(".")[0] for n in self.norm_names)]

    def dtype(self, backbone: Any) -> torch.dtype:
        """The dtype to generate weights in: that of the wrapped layers, float32 where they differ; where they are
        quantised to whole numbers, that of the backbone."""
        dtypes = {backbone.get_submodule(path).weight.dtype for path in self.site_paths}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        return dtype if dtype.is_floating_point else backbone.dtype


def _give_back(backbone: nn.Module, name: str, value: Tensor) -> None:
    """Give a norm's parameter its ``value`` from before, in the dtype that the backbone has there now."""
    norm, parameter = backbone.get_submodule(name.rpartition(".")[0]), backbone.get_parameter(name)
    dtype = cast(torch.dtype, norm.output_dtype)
    if value.is_meta:  # before, there was none
        value = parameter.detach()
    if parameter.dtype == dtype:
        parameter.copy_(value)
    else:
        parameter.data = value.to(parameter.device, dtype)


def layouts_of(backbone: nn.Module, config: HyperLoaderConfig) -> dict[str, Layout]:
    """Stack -> what would be generated for it; nothing is attached."""
    return {stack.name: _layout(backbone, stack, config) for stack in find_stacks(backbone, config.sites)}


def replace(backbone: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` where ``path`` leads in ``backbone``."""
    parent, _, name = path.rpartition(".")
    setattr(backbone.get_submodule(parent), name, module)


def _freeze_quantized(backbone: nn.Module) -> list[str]:
    """Put a ``FrozenLinear`` around the quantised layers without sites that need one; returns their paths."""
    bare = [
        path
        for path, layer in quantized_layers(backbone)
        if frozen(layer) is not layer and not isinstance(backbone.get_submodule(path.rpartition(".")[0]), WrappedLinear)
    ]
    for path in bare:
        replace(backbone, path, frozen(backbone.get_submodule(path)))
    return bare


def _sites_of_layers(backbone: nn.Module, stacks: Sequence[Stack], wanted: Collection[str]) -> dict[str, LayerSites]:
    """Path of every linear layer -> the ``wanted`` sites there."""
    lora: dict[str, dict[SiteKey, Rows]] = {}
    adapters: dict[str, SiteKey] = {}
    for stack in stacks:
        for layer, sites in enumerate(stack.layers):
            for site, path in sites.items():
                if site in wanted:
                    updates = lora.setdefault(path, {})
                    if site in ADAPTER_SITES:
                        adapters[path] = (stack.name, layer, site)
                    else:
                        updates[stack.name, layer, site] = stack.rows(backbone, layer, site)
    return {path: LayerSites(updates, adapters.get(path)) for path, updates in lora.items()}


def _check_asked_for(backbone: nn.Module, stacks: Sequence[Stack], config: HyperLoaderConfig) -> None:
    """Raise ``ValueError`` for a site that is not there, but for the usual ones, which a stack may lack."""
    known = {site for stack in stacks for site in stack.layers[0]}
    for site in config.lora_sites:
        if site in MORE_LORA_SITES and site not in known:
            have = f"{type(backbone).__name__} has ({', '.join(sorted(known))})"
            raise ValueError(f"lora_sites must name sites that {have}, got {site!r}")


def _layout(backbone: nn.Module, stack: Stack, config: HyperLoaderConfig) -> Layout:
    sizes = {}
    for site in stack.layers[0]:
        found = {_sizes(backbone, stack, layer, site) for layer in range(len(stack.layers))}
        if len(found) > 1:
            raise ValueError(
                f"the layers at {site} of the {stack.name} must have one size (in_features, out_features), got "
                f"{listed(sorted(found), 'sizes', few=A_FEW)}"
            )
        (sizes[site],) = found
    return layout_of(config, len(stack.layers), sizes)


def _sizes(backbone: nn.Module, stack: Stack, layer: int, site: str) -> tuple[int, int]:
    """in_features and out_features of a site."""
    start, stop = stack.rows(backbone, layer, site)
    return sizes_of(backbone.get_submodule(stack.layers[layer][site]))[0], stop - start
