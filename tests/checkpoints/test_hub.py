"""The Hugging Face Hub, without a network: what is uploaded, what is asked for, and the card that is shown."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny

from hyperloader import HyperLoaderModel, TaskModel
from hyperloader.checkpoints.card import model_card

REPO = "owner/name"


@pytest.fixture
def repository(monkeypatch, tmp_path):
    """A folder that stands for the repository ``owner/name``; every call is appended to ``calls``."""
    folder = tmp_path / "repository"
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(token)

        def create_repo(self, repo_id, private, exist_ok):
            calls.append((repo_id, private, exist_ok))

        def create_commit(self, repo_id, operations, commit_message):
            for one in operations:
                path = folder / one.path_in_repo
                path.parent.mkdir(parents=True, exist_ok=True)
                content = one.path_or_fileobj
                path.write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    def download(repo_id, revision, allow_patterns):
        calls.append((repo_id, revision))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return SimpleNamespace(folder=folder, calls=calls)


def test_a_model_and_a_task_go_there_and_come_back(repository):
    model = tiny.make_model("bert", torch.float32)
    assert model.push_to_hub(REPO, private=True, token="secret", license="mit") == "https://hub/owner/name"
    assert repository.calls == ["secret", (REPO, True, True)]
    again = HyperLoaderModel.from_pretrained(REPO, tiny.make("bert"), revision="v2")
    assert repository.calls[-1] == (REPO, "v2")
    assert torch.equal(tiny.logits(again, "bert", task="a"), tiny.logits(model, "bert", task="a"))


def test_a_merged_task(repository):
    merged = tiny.make_model("bert", torch.float32).merge("a")
    merged.push_to_hub(REPO)
    assert torch.equal(tiny.logits(TaskModel.from_pretrained(REPO), "bert"), tiny.logits(merged, "bert"))


def test_the_card_has_metadata_that_the_hub_reads():
    from huggingface_hub import ModelCard

    config = tiny.config_for("bert", kinds={"a": "classification"})
    scores = {"a": ("accuracy", 0.5), "b c": ("f1", 0.25), "ü.weight": ("f1", 1.0)}
    counts = {task: {"train": 1000, "validation": 10, "test": 20} for task in tiny.TASKS}
    text = model_card(REPO, "google/t5", config, 1234, "print()", scores, counts, "mit")
    data = ModelCard(text).data
    assert (data.library_name, data.base_model, data.license) == ("hyperloader", "google/t5", "mit")
    assert [(one.dataset_name, one.metric_type, one.metric_value) for one in data.eval_results] == [
        (task, *score) for task, score in scores.items()
    ]
    assert "| a | classification | O, B-x, I-x | 1,000 | 10 | 20 | accuracy 50.0 |" in text
    assert "1,234 trained parameters for 3 tasks" in text


def test_a_folder_of_this_machine_is_not_published():
    text = model_card(REPO, "/home/me/secret", tiny.config_for("bert"), 1, "print()")
    assert "secret" not in text


def test_what_is_wrong_is_one_line(monkeypatch):
    model = tiny.make_model("bert", torch.float32)
    with pytest.raises(ValueError, match="repo_id must have the form owner/name, got 'name'"):
        model.push_to_hub("name")

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, *_, **__):
            raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(
        ConnectionError, match=r"owner/name: the Hugging Face Hub did not take it \(no network\); log in"
    ):
        model.push_to_hub(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="nobody/nothing: no such folder, and no repository"):
        HyperLoaderModel.from_pretrained("nobody/nothing")
    with pytest.raises(FileNotFoundError, match="no such folder; name a folder that save_pretrained wrote, or owner/"):
        HyperLoaderModel.from_pretrained("nowhere")
