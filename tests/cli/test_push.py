"""`hyperloader push`: what is published of a run, and what is not."""

import json
import shutil

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
    files["config.yaml"] = files["config.yaml"].replace(config["backbone"].encode(), b"")  # on the Hub, for this test
    for content in files.values():
        content = content if isinstance(content, bytes) else content.read_bytes()
        assert str(run_folder.parent).encode() not in content
    assert b"Tagger.from_pretrained('owner/name')" in files["README.md"]
    data = ModelCard(files["README.md"].decode()).data
    assert (data.license, data.pipeline_tag, len(data.eval_results)) == ("mit", "token-classification", 2)


def test_a_card_that_was_edited_is_published_as_it_is(call, fails, run_folder, pushed, monkeypatch, tmp_path):
    monkeypatch.setattr("hyperloader.training.publishing.on_hub", lambda name: True)
    shutil.copytree(run_folder, tmp_path / "run")
    card = tmp_path / "run" / "README.md"
    card.write_text("# Mine\n")
    assert call("push", tmp_path / "run", "owner/name").exit_code == 0
    assert pushed[0][1]["README.md"] == card
    message = fails("push", tmp_path / "run", "owner/name", "--license", "mit")
    assert message.endswith("README.md, which was edited and is published as it is, got 'mit'")
    assert len(pushed) == 1


def test_a_backbone_that_nobody_else_has(fails, run_folder, pushed):
    message = fails("push", run_folder, "owner/name")
    assert "backbone must be a model of the Hub, minilm or smollm2 to be published, got " in message
    assert "must be the output of a run" in fails("push", run_folder / "best", "owner/name")
    assert not pushed


def test_a_name_that_is_none_is_said_before_the_run_is_loaded(fails, tmp_path):
    assert fails("push", tmp_path, "name") == "error: repo_id must have the form owner/name, got 'name'"


def test_a_card_of_texts():
    from types import SimpleNamespace

    from torch import nn

    from hyperloader.data.kinds import Kind
    from hyperloader.training.run_card import run_card

    run = SimpleNamespace(
        config=SimpleNamespace(backbone="smollm2", method="lora"),
        model=nn.ModuleDict({"backbone": nn.Linear(2, 1)}),
        labels={"titles": []},
        tasks=["titles"],
        kinds={"titles": Kind("text-to-text")},
    )
    run.model.backbone = run.model["backbone"]
    metrics = {"test": {"tasks": {"titles": {"exact_match": 0.0}}}, "sentences": {"titles": {"train": 1200, "test": 7}}}
    card = run_card(run, metrics, "owner/name").decode()
    assert "3 parameters trained, of 3 in all, for 1 task: one LoRA for all tasks." in card
    assert "| task | kind | labels | train sentences | test sentences | test score |" in card
    assert "| titles | text-to-text |  | 1,200 | 7 | exact_match 0.000 |" in card
    data = ModelCard(card).data
    assert (data.pipeline_tag, data.base_model) == ("text-generation", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [("exact_match", 0.0)]
    assert "tagger({'source': 'a text of yours'}, task='titles')" in card
