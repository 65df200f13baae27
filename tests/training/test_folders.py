import errno
import os
import resource
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from hyperloader.training.folders import CheckpointError, checkpoints, prune, recover, write_text, writing
from hyperloader.training.weights import load_weights, save_trained


def fill(folder, text):
    with writing(folder) as aside:
        (aside / "file").write_text(text)


@pytest.fixture
def folder(tmp_path):
    """A complete folder that holds "old"."""
    fill(tmp_path / "best", "old")
    return tmp_path / "best"


def test_a_folder_is_replaced_whole(folder):
    (folder / "left over").write_text("")
    fill(folder, "new")
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_a_full_disk_leaves_the_old_folder(folder):
    with (
        pytest.raises(CheckpointError, match=r"best: cannot be written .*No space left.*before is intact"),
        writing(folder),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (folder / "file").read_text() == "old"
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError(
            'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left" })'
        ),
    ],
)
def test_a_full_disk_is_called_that(folder, error):
    with pytest.raises(CheckpointError, match="the disk is full: .*make room and resume"), writing(folder):
        raise error
    with pytest.raises(CheckpointError) as other, writing(folder):
        raise OSError(errno.EIO, "Input/output error")
    assert "disk is full" not in str(other.value)


def test_a_short_file_on_a_full_disk_is_a_full_disk(folder, monkeypatch):
    for free, says in ((1000, True), (1 << 40, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(CheckpointError) as caught, writing(folder):
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        assert ("the disk is full" in str(caught.value)) == says


def test_a_folder_that_was_deleted_is_not_made_anew(folder):
    shutil.rmtree(folder.parent)
    with pytest.raises(CheckpointError, match="cannot be written"):
        fill(folder, "new")
    assert not folder.parent.exists()


def test_a_write_that_really_fails_leaves_the_old_folder(folder):
    model = nn.Linear(300, 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="best: cannot be written"), writing(folder) as aside:
            save_trained(model, aside)
        with pytest.raises(CheckpointError, match="best: cannot be written"), writing(folder) as aside:
            torch.save(model.state_dict(), aside / "optimizer.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "file").read_text() == "old"


def test_our_own_errors_pass_through(folder):
    with pytest.raises(KeyError), writing(folder):
        raise KeyError("a bug")
    assert (folder / "file").read_text() == "old"
    fill(folder, "new")
    assert (folder / "file").read_text() == "new"


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_recover_after_death_between_the_renames(folder, monkeypatch, renames):
    done, rename = [], os.rename

    class Killed(BaseException):
        pass

    def killing(self, target):
        if len(done) == renames:
            raise Killed
        done.append(rename(self, target))

    monkeypatch.setattr(type(folder), "rename", killing)
    monkeypatch.setattr("hyperloader.training.folders.flush", lambda path: None)
    if renames < 2:
        with pytest.raises(Killed):
            fill(folder, "new")
    else:
        monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
        fill(folder, "new")
    monkeypatch.undo()
    recover(folder.parent)
    assert [path.name for path in folder.parent.iterdir()] == ["best"]
    assert (folder / "file").read_text() == ("new" if renames == 2 else "old")


def test_only_complete_checkpoints_count_in_the_order_of_their_steps(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-11.tmp", "checkpoint-x", "best"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    prune(tmp_path, 1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10"]


def test_text_is_written_aside(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hyperloader.training.folders.flush", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path):
    for name in ("config.yaml.part", "metrics.json.part", "film.part"):
        (tmp_path / name).write_text("")
    recover(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["film.part"]


def test_only_what_is_trained_is_saved_and_only_that_fits(tmp_path):
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    model.bias.requires_grad_(False)
    other.bias.requires_grad_(False)
    save_trained(model, tmp_path)
    load_weights(other, tmp_path)
    assert torch.equal(model.weight, other.weight)
    assert not torch.equal(model.bias, other.bias)
    with pytest.raises(ValueError, match="trained.safetensors: tensors missing: bias; extra: none"):
        load_weights(nn.Linear(2, 3), tmp_path)
    wider = nn.Linear(3, 3)
    wider.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"weight must have shape \(3, 3\), got \(3, 2\)"):
        load_weights(wider, tmp_path)
