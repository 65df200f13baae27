"""The commands as a user calls them, and a small run that they can work on."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel, BertTokenizerFast
from typer.testing import CliRunner

from hyperloader.cli.commands import app
from hyperloader.data import grammar


@pytest.fixture
def call():
    """Call `hyperloader WORDS...` in this process; the result has exit_code, stdout and stderr."""

    def call(*words, input=None):
        return CliRunner().invoke(app, [str(word) for word in words], input=input)

    return call


@pytest.fixture
def fails(call):
    """Call a command that must fail with one line on stderr, and with nothing of a traceback; returns that line."""

    def fails(*words, input=None, status=1) -> str:
        result = call(*words, input=input)
        assert result.exit_code == status, result.output
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert "Traceback" not in result.output
        return lines[0]

    return fails


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> Path:
    """A YAML file of a short training: a random BERT of width 32 on two of the grammars' tasks."""
    folder = tmp_path_factory.mktemp("cli")
    grammar.write(folder / "data", train=40, validation=10, test=10)
    (folder / "data" / "tasks.yaml").write_text(
        "tasks:\n  - {name: music, path: music}\n  - {name: calendar, path: calendar}\n"
    )
    words = {
        word
        for file in sorted((folder / "data").rglob("*.jsonl"))
        for line in file.read_text().splitlines()
        for word in json.loads(line)["tokens"]
    }
    backbone = folder / "bert"
    backbone.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    (backbone / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(backbone / "vocab.txt")).save_pretrained(backbone)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(backbone)
    values = {
        "backbone": str(backbone),
        "tasks": "data/tasks.yaml",
        "output": str(folder / "run"),
        "model": {"reduction_factor": 4},
        "training": {
            "steps": 4,
            "batch_size": 8,
            "eval_steps": 2,
            "save_steps": 2,
            "log_steps": 1,
            "report_to": "none",
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def trained(config_file):
    """The result of `hyperloader train` with that file."""
    result = CliRunner().invoke(app, ["train", str(config_file)])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="session")
def run_folder(config_file, trained) -> Path:
    """The output folder of that training."""
    return config_file.parent / "run"
