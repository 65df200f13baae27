"""The cases, in the order in which they run."""

from bench.cases import adapter, captured, generate, lora_linear, mixed, overhead, predict, step

_MODULES = (generate, adapter, lora_linear, overhead, step, predict, mixed, captured)
CASES = {module.CASE.name: module.CASE for module in _MODULES}
