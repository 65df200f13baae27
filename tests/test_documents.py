"""The examples of README and docs/ run as they are printed, and what is named there exists."""

import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import published_oracle
from helpers.published_t5 import PublishedT5, classes
from transformers import T5Config, T5ForConditionalGeneration
from typer.testing import CliRunner

from hyperloader.cli.commands import app
from hyperloader.training.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def block(language: str, page: str, heading: str = "# ") -> str:
    """The first block of ``language`` behind ``heading`` in a page."""
    return re.search(rf"```{language}\n(.*?)```", text_of(page).split(heading, 1)[1], re.DOTALL)[1]


def run_in(folder: Path, example: str, data_folder: Path) -> subprocess.CompletedProcess:
    """Run ``example`` in a folder where `t5-base` is a small random T5 with the real tokenizer."""
    sizes = {"d_model": 64, "d_kv": 8, "num_heads": 8, "d_ff": 64, "num_layers": 2, "vocab_size": 32128}
    T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(folder / "t5-base")
    for file in (data_folder / "t5_tokenizer").iterdir():
        shutil.copy(file, folder / "t5-base")
    command = [sys.executable, "-W", "error::FutureWarning", "-c", example]
    result = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_example_and_a_new_task(tmp_path, data_folder):
    example = block("python", "README.md")
    assert example.count("\n") <= 20
    assert example == block("python", "docs/quickstart.md")
    example += block("python", "docs/training.md", "## A new task, nothing forgotten")
    result = run_in(
        tmp_path, example + "print(model.trainable_parameters(), model.hyperloader_config.tasks)", data_folder
    )
    assert "trainable parameters: " in result.stdout
    assert "64 ('atis', 'snips', 'mtop')" in result.stdout
    assert '"mtop"' in (tmp_path / "my-tasks" / "hyperloader.json").read_text()
    assert (tmp_path / "my-tasks" / "model.safetensors").is_file()


def test_serving(tmp_path, data_folder):
    """The example goes on with the model of the first one."""
    example = block("python", "README.md") + block("python", "docs/serving.md")
    result = run_in(tmp_path, example, data_folder)
    assert "'generated': 1, 'served': 1" in result.stdout
    for folder in ("atis-alone", "atis-task"):
        assert (tmp_path / folder / "model.safetensors").is_file()


def test_drop_in(tmp_path):
    """In a folder where `published-model` holds a small checkpoint of the published code."""
    (tmp_path / "published-model").mkdir()
    torch.save(PublishedT5(classes(published_oracle)).checkpoint(), tmp_path / "published-model" / "pytorch_model.bin")
    command = [sys.executable, "-c", block("python", "docs/published.md")]
    result = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "atis, mit.movie, ü\n" in result.stdout
    assert (tmp_path / "my-tasks" / "model.safetensors").is_file()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


def test_run_configuration(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(block("yaml", "docs/quickstart.md"), encoding="utf-8")
    config = RunConfig.from_yaml(path)
    assert (config.method, config.options.learning_rate) == ("hyperloader", 3e-3)


def test_commands_exist():
    listed = re.findall(
        r"^\| `hyperloader ([a-z ]+?)(?: [A-Z\[-].*?)?` \|", text_of("docs/quickstart.md"), re.MULTILINE
    )
    assert {"train", "evaluate", "predict", "inspect", "data check", "env", "demo"} <= set(listed)
    for command in listed:
        result = CliRunner().invoke(app, [*command.split(), "--help"])
        assert result.exit_code == 0, f"{command}: {result.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page):
    makefile = text_of("Makefile")
    for target in set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_readme_is_short():
    assert text_of("README.md").count("\n") <= 150


def test_every_page_is_in_the_index():
    pages = {page.stem for page in ROOT.glob("docs/*.md")} - {"index"}
    assert pages == set(re.findall(r"^([a-z-]+)$", text_of("docs/index.md"), re.MULTILINE))


def test_what_the_api_page_names_exists():
    text = text_of("docs/api.md")
    entries = re.findall(r"^\.\. auto\w+:: (\S+)(?:\n   :members: (.*))?$", text, re.MULTILINE)
    assert len(entries) > 30
    for name, members in entries:
        found = pkgutil.resolve_name(name)
        missing = [member for member in re.split(r", *", members) if member and not hasattr(found, member)]
        assert not missing, f"{name} has no {', '.join(missing)}"
