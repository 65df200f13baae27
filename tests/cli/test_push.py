"""`hyperloader push`: what is published of a run, and what is not."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard


@pytest.fixture
def pushed(monkeypatch):
    """What was to be put on the Hub: repository, files by name, patterns, whether private."""
    found = []

    def push(files, repo_id, own, private, token):
        found.append((repo_id, files, own, private))
        return "https://hub/owner/name"

    monkeypatch.setattr("hyperloader.checkpoints.hub.push", push)
    return found


def test_a_run(call, run_folder, pushed, monkeypatch):
    monkeypatch.setattr("hyperloader.training.publishing.on_hub", lambda name: True)  # its backbone is in a folder
    result = call("push", run_folder, "owner/name", "--private", "--license", "mit")
    assert result.stdout == "https://hub/owner/name\n", result.output
    ((repo_id, files, own, private),) = pushed
    assert (repo_id, private) == ("owner/name", True)
    assert set(files) == {
        "config.yaml",
        "labels.json",
        "words.json",
        "metrics.json",
        "best/hyperloader.json",
        "best/model.safetensors",
        "README.md",
    }
    assert {"kinds.json", "descriptions.json", "metrics.json"} <= set(own)
    config = yaml.safe_load(files["config.yaml"])
    assert [entry["path"] for entry in config["tasks"]] == ["music", "calendar"]
    assert "config" not in json.loads(files["metrics.json"])
    for name in ("README.md", "metrics.json"):
        assert str(run_folder.parent).encode() not in files[name].split(b"`")[0]
    data = ModelCard(files["README.md"].decode()).data
    assert (data.license, data.pipeline_tag, len(data.eval_results)) == ("mit", "token-classification", 2)


def test_a_backbone_that_nobody_else_has(fails, run_folder, pushed):
    message = fails("push", run_folder, "owner/name")
    assert "backbone must be a model of the Hub, minilm or smollm2 to be published, got " in message
    assert "must be the output of a run" in fails("push", run_folder / "best", "owner/name")
    assert not pushed


def test_a_card_of_texts():
    from types import SimpleNamespace

    from torch import nn

    from hyperloader.data.kinds import Kind
    from hyperloader.training.publishing import run_card

    run = SimpleNamespace(
        config=SimpleNamespace(backbone="smollm2", method="lora"),
        model=nn.Linear(2, 1),
        labels={"titles": []},
        tasks=["titles"],
        kinds={"titles": Kind("text-to-text")},
    )
    card = run_card(run, {"tasks": {"titles": {"exact_match": 0.25}}}, "owner/name").decode()
    assert "3 parameters trained for 1 task by the method lora" in card
    assert ModelCard(card).data.pipeline_tag == "text-generation"
    assert "tagger({'source': 'a text of yours'}, task='titles')" in card
