"""The Hugging Face Hub, without a network: what is uploaded, and what is asked for."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny
from huggingface_hub import CommitOperationDelete, ModelCard
from huggingface_hub.errors import HfHubHTTPError

from hyperloader import HyperLoaderModel, TaskModel
from hyperloader.checkpoints import hub
from hyperloader.checkpoints.card_file import is_replaceable, license_of

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

        def list_repo_files(self, repo_id):
            return [path.name for path in folder.iterdir()] if folder.exists() else []

        def hf_hub_download(self, repo_id, filename):
            return str(folder / filename)

        def create_commit(self, repo_id, operations, commit_message):
            for one in operations:
                path = folder / one.path_in_repo
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(one, CommitOperationDelete):
                    path.unlink()
                    continue
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
    card = ModelCard.load(repository.folder / "README.md")
    assert card.data.license == "mit"
    assert "# owner/name\n" in card.text and "HyperLoaderModel.from_pretrained('owner/name', backbone)" in card.text
    again = HyperLoaderModel.from_pretrained(REPO, tiny.make("bert"), revision="v2")
    assert repository.calls[-1] == (REPO, "v2")
    assert torch.equal(tiny.logits(again, "bert", task="a"), tiny.logits(model, "bert", task="a"))


def test_a_folder_of_this_machine_stays_unknown(repository, tmp_path):
    """The description's own hash holds, and who loads the model is told what is missing."""
    model = tiny.make_model("bert", torch.float32)
    tiny.make("bert").save_pretrained(tmp_path / "secret")
    for name, known in ((str(tmp_path / "secret"), ""), ("google/bert", "google/bert"), ("gpt2", "gpt2")):
        model.backbone.config._name_or_path = name
        model.push_to_hub(REPO)
        description = json.loads((repository.folder / "hyperloader.json").read_text())
        assert description["backbone"]["name"] == known
        assert ModelCard.load(repository.folder / "README.md").data.base_model == (known or None)
        HyperLoaderModel.from_pretrained(REPO, tiny.make("bert"))
        if not known:
            assert not [one for one in repository.folder.iterdir() if str(tmp_path).encode() in one.read_bytes()]
            with pytest.raises(ValueError, match="its backbone was saved without a name; give backbone="):
                HyperLoaderModel.from_pretrained(REPO)


def test_a_merged_task(repository):
    merged = tiny.make_model("bert", torch.float32).merge("a")
    merged.push_to_hub(REPO)
    assert torch.equal(tiny.logits(TaskModel.from_pretrained(REPO), "bert"), tiny.logits(merged, "bert"))


def test_files_of_an_earlier_push_go_and_others_stay(repository):
    repository.folder.mkdir()
    for name in ("task.json", "config.json", "mine.txt"):
        (repository.folder / name).write_text("old")
    tiny.make_model("bert", torch.float32).push_to_hub(REPO)
    names = {path.name for path in repository.folder.iterdir()}
    assert names == {"hyperloader.json", "model.safetensors", "README.md", "mine.txt"}


@pytest.mark.parametrize(
    ("card", "license"),
    [
        (b"---\nlanguage: en\nlicense: mit\n---\ntext", "mit"),
        (b"\xef\xbb\xbf---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        (b"---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
        (b"---\nlanguage: en\n---\nlicense: mit\n---\n", None),
        (b"---\nlicense: [\n---\n", None),
        (b"license: mit\n", None),
    ],
)
def test_the_licence_that_a_card_names(card, license):
    assert license_of(card) == license


def test_a_licence_stays_until_another_is_given(repository):
    model, path = tiny.make_model("bert", torch.float32), repository.folder / "README.md"
    licenses = []
    for given in (None, "mit", None, "apache-2.0", None):
        model.push_to_hub(REPO, license=given)
        licenses.append(ModelCard.load(path).data.license)
        assert is_replaceable(path) and path.read_text().count("license:") == (licenses[-1] is not None)
    assert licenses == [None, "mit", "mit", "apache-2.0", "apache-2.0"]


def test_a_card_of_the_users_own_says_what_it_no_longer_does(repository, tmp_path, caplog):
    tiny.make_model("bert", torch.float32).push_to_hub(REPO, license="mit")
    (tmp_path / "README.md").write_text("---\ntags: [a]\n---\n# Mine\n\nlicense: none\n")
    hub.push({"README.md": tmp_path / "README.md"}, REPO, ())
    assert [one.getMessage() for one in caplog.records] == [
        f"warning: owner/name: had the license mit, which {tmp_path / 'README.md'} does not name"
    ]
    assert (repository.folder / "README.md").read_bytes() == (tmp_path / "README.md").read_bytes()


def test_a_card_that_was_edited_there_stays(repository, caplog):
    model, path = tiny.make_model("bert", torch.float32), repository.folder / "README.md"
    model.push_to_hub(REPO)
    model.push_to_hub(REPO, license="mit")
    assert "license: mit" in path.read_text() and not caplog.records
    path.write_text(path.read_text().replace("trained", "learned"))
    (repository.folder / "model.safetensors").unlink()
    model.push_to_hub(REPO, license="apache-2.0")
    assert "license: mit" in path.read_text() and "learned" in path.read_text()
    assert [one.getMessage() for one in caplog.records] == [
        "warning: owner/name: its README.md was edited there, and stays as it is; write license: apache-2.0 into it"
    ]
    assert (repository.folder / "model.safetensors").exists()
    hub.push({"README.md": Path(__file__)}, REPO, ())  # one that was edited here
    assert path.read_text() == Path(__file__).read_text()


def test_what_is_wrong_is_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def refuse(*_, **__):
        client = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")  # of its library
        raise client("nobody there")

    model = tiny.make_model("bert", torch.float32)
    with pytest.raises(ValueError, match="repo_id must have the form owner/name, got 'name'"):
        model.push_to_hub("name")
    with pytest.raises(ValueError, match="repo_id must be a name that the Hub takes: .*-- or"):
        model.push_to_hub("a/b--c")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.create_repo", refuse)
    with pytest.raises(ConnectionError, match=r"owner/name: the Hugging Face Hub did not take it \(nobody there\); a"):
        model.push_to_hub(REPO, token="x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="nobody/nothing: no such folder, and no repository"):
        HyperLoaderModel.from_pretrained("nobody/nothing")
    with pytest.raises(FileNotFoundError, match="no such folder; name a folder that save_pretrained wrote, or owner/"):
        HyperLoaderModel.from_pretrained("nowhere")
    with pytest.raises(FileNotFoundError, match="runs: no such folder; name a folder that save_pretrained wrote"):
        HyperLoaderModel.from_pretrained("./runs")
    with pytest.raises(FileNotFoundError, match="a--b/c: no such folder, and no repository"):
        HyperLoaderModel.from_pretrained("a--b/c")
