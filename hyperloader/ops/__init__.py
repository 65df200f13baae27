"""The operators that carry the whole cost, and the choice of what computes them."""

from hyperloader.ops.adapter import adapter
from hyperloader.ops.backend import BACKENDS, backend_in_use, use_backend, why_missing
from hyperloader.ops.condition import condition
from hyperloader.ops.generate import generate
from hyperloader.ops.lora_linear import explain_lora_linear, lora_linear, lora_linears
from hyperloader.ops.native import build_info

__all__ = [
    "BACKENDS",
    "adapter",
    "backend_in_use",
    "build_info",
    "condition",
    "explain_lora_linear",
    "generate",
    "lora_linear",
    "lora_linears",
    "use_backend",
    "why_missing",
]
