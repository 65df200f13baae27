"""``hyperloader backbones``: the known families, and a proposal of sites for a model of another."""

import sys
from typing import Annotated, Any

import typer

from hyperloader.backbones import FAMILIES
from hyperloader.cli.table import table


def backbones(
    model: Annotated[
        str | None, typer.Argument(help="A folder or a model of the Hub, of which the config is read.")
    ] = None,
) -> None:
    """List the known backbones or, given a model, its linear layers and the sites that they may be."""
    if model is None:
        rows = [(name, _about(family)) for name, family in FAMILIES.items()]
        print(table(("model_type", "family"), rows))
        print("\nAny other: `hyperloader backbones FOLDER` proposes `sites:` for it.")
        return
    print(_proposal(model))


def _about(family: Any) -> str:
    return (sys.modules[family.__module__].__doc__ or "").partition("\n")[0].rstrip(".")


def _proposal(name: str) -> str:
    from hyperloader.backbones.proposal import linear_layers, proposed_sites
    from hyperloader.training.backbone import model_without_weights

    model: Any = model_without_weights(name)
    layers = linear_layers(model)
    kind, known = model.config.model_type, model.config.model_type in FAMILIES
    title = f"{type(model).__name__} of type {kind}: " + ("known, needs no sites" if known else "not known")
    if not layers:
        return f"{title}; no linear layers in lists of layers, nothing to propose"
    rows = [
        (pattern, count, f"{size_in} -> {size_out}", site or "-")
        for pattern, (count, size_in, size_out, site) in layers.items()
    ]
    lines = [title, "", table(("linear layers", "layers", "size", "LoRA site, by its name"), rows), ""]
    sites = proposed_sites(layers)
    if sites:
        lines += [
            "A proposal for the YAML of a run, to be looked at; of a fused projection the query is all of it:",
            "",
            "model:",
            "  sites:",
        ]
        lines += [
            f"    {site}: {paths[0] if len(paths) == 1 else '[' + ', '.join(paths) + ']'}"
            for site, paths in sites.items()
        ]
    return "\n".join(lines)
