"""The cases, in the order in which they run."""

from bench.cases import adapter, generate, lora_linear, mixed, overhead, predict, step

CASES = {module.CASE.name: module.CASE for module in (generate, adapter, lora_linear, overhead, step, predict, mixed)}
