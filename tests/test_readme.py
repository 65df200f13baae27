"""The README's example runs as it is printed, and what it names exists."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from interop import published_oracle
from interop.published_t5 import PublishedT5, classes
from transformers import T5Config, T5ForConditionalGeneration

from hyperloader.training.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, heading: str = "") -> str:
    """The first block of code in ``language`` after ``heading``."""
    return re.search(rf"{heading}.*?```{language}\n(.*?)```", README, re.DOTALL)[1]


def test_example(tmp_path, data_folder):
    """In a folder where `t5-base` is a small random T5 with the real tokenizer."""
    folder = tmp_path / "t5-base"
    sizes = {"d_model": 64, "d_kv": 8, "num_heads": 8, "d_ff": 64, "num_layers": 2, "vocab_size": 32128}
    T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(folder)
    for file in (data_folder / "t5_tokenizer").iterdir():
        shutil.copy(file, folder)
    example = block("python")
    assert example.count("\n") <= 20
    command = [sys.executable, "-W", "error::FutureWarning", "-c", example]
    result = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "trainable parameters: " in result.stdout
    assert (tmp_path / "my-tasks" / "model.safetensors").is_file()


def test_drop_in(tmp_path):
    """In a folder where `published-model` holds a small checkpoint of the published code."""
    (tmp_path / "published-model").mkdir()
    torch.save(PublishedT5(classes(published_oracle)).checkpoint(), tmp_path / "published-model" / "pytorch_model.bin")
    command = [sys.executable, "-c", block("python", "## Drop-in")]
    result = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "atis, mit.movie, ü\n" in result.stdout
    assert (tmp_path / "my-tasks" / "model.safetensors").is_file()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


def test_run_configuration(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(block("yaml"), encoding="utf-8")
    config = RunConfig.from_yaml(path)
    assert (config.method, config.options.learning_rate) == ("hyperloader", 5e-3)


def test_commands_exist():
    listed = re.findall(r"^\| `hyperloader ([a-z ]+?)(?: [A-Z\[-].*?)?` \|", README, re.MULTILINE)
    assert {"train", "evaluate", "predict", "data check", "env", "demo"} <= set(listed)
    for command in listed:
        result = subprocess.run(
            [sys.executable, "-m", "hyperloader.cli", *command.split(), "--help"],
            env=_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}: {result.stderr}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
