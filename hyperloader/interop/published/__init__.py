"""The published implementation's classes, to be imported in the place of its own, and a reader of its checkpoints.

The names, shapes and numbers are those of the published code; what differs is when a weight is generated: all layers of
a stack at once, by the first layer that asks, instead of one weight at a time.
"""

from hyperloader.interop.published.checkpoint import load_published_checkpoint
from hyperloader.interop.published.controller import AdapterLayersOneHyperNetController
from hyperloader.interop.published.layers import MetaLayersAdapterController, MetaLoRALayer

__all__ = [
    "AdapterLayersOneHyperNetController",
    "MetaLayersAdapterController",
    "MetaLoRALayer",
    "load_published_checkpoint",
]
