"""What ``hyperloader train --dry-run`` prints."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hyperloader.cli.training_report import print_notes

if TYPE_CHECKING:
    from hyperloader.training.dry_run import DryRun, Work
    from hyperloader.training.run_config import RunConfig


def dry_run_and_report(config: "RunConfig", steps: int) -> None:
    """Take the first ``steps`` steps and print how long all would take; of several processes the main one prints."""
    from hyperloader.processes import is_main_process, process_count
    from hyperloader.training.dry_run import dry_run
    from hyperloader.training.progress import size_of_a_step

    prints = is_main_process()
    if prints:
        size = size_of_a_step(config.options, process_count())
        taken = f"{steps:,} of {config.options.steps:,} steps, {size}; nothing is kept"
        print(f"{config.method} on {config.backbone}: {taken}")
        sys.stdout.flush()
    found = dry_run(config, steps, sys.stderr.isatty(), print_notes if prints else lambda tasks: None)
    if prints:
        print(conclusion(found, config, steps))


def conclusion(found: "DryRun", config: "RunConfig", steps: int) -> str:
    """What a step took, and how long the whole training would take."""
    options, step = config.options, found.step
    lines = [
        f"\nloss     {found.losses[0]:.4g} in the first steps, {found.losses[-1]:.4g} in the last of {steps:,}",
        f"step     {step.seconds:.3g} s, {step.flops / 1e12:.3g} TFLOP of products, {step.operators:,} operators",
        f"padding  {100 * found.padding:.1f} % of the tokens that are read",
        f"memory   {found.memory / 2**30:.1f} GiB at most, {found.trained:,} parameters are trained",
        f"here     {_times(found, config, lambda work: work.seconds)}",
    ]
    if found.device.type == "cpu":
        half = options.bf16 or options.fp16 or config.backbone_dtype != "float32"
        kind = "half precision" if half else "float32"
        on_gpu = _times(found, config, lambda work: work.on_gpu(half))
        lines.append(f"on a GPU {on_gpu}: an estimate for an H100 or H200, in {kind}")
    return "\n".join(lines)


def _times(found: "DryRun", config: "RunConfig", seconds: Callable[["Work"], float]) -> str:
    from hyperloader.training.reporting import duration

    steps, limit = config.options.steps, "" if config.head == "token-classification" else "at most "
    training, scoring = steps * seconds(found.step), found.batches * seconds(found.scoring)
    return f"{duration(training)} for {steps:,} steps, {limit}{duration(scoring)} for scoring"
