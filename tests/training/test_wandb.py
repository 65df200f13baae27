"""A tracker as a user has it: Weights & Biases without a network."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_wandb_without_a_network(settings, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    (tmp_path / "run.yaml").write_text(settings(training={"report_to": "wandb"}).to_yaml())
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "hyperloader.cli", "train", str(tmp_path / "run.yaml")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"eval/mean_f1" in file.read_bytes()
