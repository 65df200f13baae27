"""`hyperloader train --dry-run`."""

import re

import torch

from hyperloader.cli.dry_run_report import conclusion
from hyperloader.training.dry_run import SECONDS_PER_OPERATOR, DryRun, Work
from hyperloader.training.run import RunConfig


def test_a_dry_run_says_how_long_the_training_takes_and_keeps_nothing(call, config_file, tmp_path):
    result = call("train", config_file, "--output", tmp_path / "run", "--dry-run", 2)
    assert result.exit_code == 0, result.output
    assert "2 of 4 steps, 8 sentences a step" in result.stdout
    assert re.search(r"^here +\d+ s for 4 steps, \d+ s for scoring$", result.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_what_makes_no_dry_run(call, fails, config_file):
    assert "--resume must not be given with --dry-run" in fails("train", config_file, "--dry-run", 2, "--resume")
    assert call("train", config_file, "--dry-run", 0).exit_code == 2


def found(device):
    step, scoring = Work(7.2, 3 * 10**12, 10_000), Work(60.0, 10**12, 20_000)
    return DryRun(step, scoring, 10.0, (9.5, 4.25), 1_234_567, 3 * 2**30, 0.0625, torch.device(device))


def config(**changes):
    return RunConfig(backbone="t5-base", tasks="tasks.yaml", output="run", **changes)


def test_hours_here_and_on_a_gpu():
    text = conclusion(found("cpu"), config(head="text-to-text", training={"steps": 1000}), 20).splitlines()
    assert text[1:6] == [
        "loss     9.5 in the first steps, 4.25 in the last of 20",
        "step     7.2 s, 3 TFLOP of products, 10,000 operators",
        "padding  6.2 % of the tokens that are read",
        "memory   3.0 GiB at most, 1,234,567 parameters are trained",
        "here     2 h 00 min for 1,000 steps, at most 10 min 00 s for scoring",
    ]
    seconds = 10_000 * SECONDS_PER_OPERATOR * 1000
    assert text[6].startswith(f"on a GPU {seconds // 60:.0f} min ")
    assert text[6].endswith("an estimate for an H100 or H200, in float32")


def test_on_a_gpu_the_measurement_is_enough():
    text = conclusion(found("cuda"), config(training={"steps": 1000}), 20)
    assert text.endswith("here     2 h 00 min for 1,000 steps, 10 min 00 s for scoring")
