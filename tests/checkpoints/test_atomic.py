import errno
import os
import resource
import shutil
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers.disk import flushed, interrupt_second_replace
from helpers.tiny import make_model
from safetensors import SafetensorError
from torch import nn

from hyperloader.checkpoints.atomic import (
    CheckpointError,
    recover,
    write_files,
    write_text,
    writing_files,
    writing_folder,
)
from hyperloader.training.weights import save_trained


def fill(folder, text):
    with writing_folder(folder) as aside:
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


def test_files_of_other_processes_are_flushed_too(folder, monkeypatch):
    """Which write as long as the main one waits for them."""
    paths, waited = flushed(monkeypatch), []

    def wait():
        if len(waited) == 1:  # when what the main process writes is written
            (folder.parent / "best.tmp" / "other").write_text("of another process")
        waited.append(len(paths))

    with writing_folder(folder, wait=wait) as aside:
        (aside / "file").write_text("new")
    assert sorted(path.name for path in folder.iterdir()) == ["file", "other"]
    assert {path.name for path in paths} == {"file", "other", folder.parent.name}
    assert len(waited) == 3 and waited[-1] == len(paths)


def test_a_full_disk_leaves_the_old_folder(folder):
    with (
        pytest.raises(CheckpointError, match=r"best: cannot be written .*No space left.*before is intact"),
        writing_folder(folder),
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
def test_a_full_disk_is_named(folder, error):
    with pytest.raises(CheckpointError, match="the disk is full: .*make room and resume"), writing_folder(folder):
        raise error
    with pytest.raises(CheckpointError) as other, writing_folder(folder):
        raise OSError(errno.EIO, "Input/output error")
    assert "disk is full" not in str(other.value)


def test_a_short_file_on_a_full_disk_is_a_full_disk(folder, monkeypatch):
    for free, says in ((1000, True), (1 << 40, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(CheckpointError) as caught, writing_folder(folder):
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
        with pytest.raises(CheckpointError, match="best: cannot be written"), writing_folder(folder) as aside:
            save_trained(model, aside)
        with pytest.raises(CheckpointError, match="best: cannot be written"), writing_folder(folder) as aside:
            torch.save(model.state_dict(), aside / "optimizer.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "file").read_text() == "old"


def test_our_own_errors_pass_through(folder):
    with pytest.raises(KeyError), writing_folder(folder):
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
    monkeypatch.setattr("hyperloader.checkpoints.atomic.flush", lambda path: None)
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


def test_text_is_written_under_a_temporary_name(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hyperloader.checkpoints.atomic.flush", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path):
    """Of earlier versions too; other files stay."""
    kept = ["film.part", "film.tmp", "film.old", ".film.tmp"]
    for name in ("config.yaml.part", "metrics.json.part", ".metrics.json.123.tmp", *kept):
        (tmp_path / name).write_text("")
    recover(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_files_that_belong_together_are_renamed_together(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("one", "two", "three")]
    write_files(dict.fromkeys(paths, b"old"))
    interrupt_second_replace(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        write_files(dict.fromkeys(paths, b"new"))
    assert [path.read_bytes() for path in paths] == [b"new"] * 3
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError), writing_files(*paths) as asides:
        asides[0].write_text("the only one")
    assert [path.read_bytes() for path in paths] == [b"new"] * 3
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.forks
def test_several_processes_write_one_file(tmp_path):
    """Each writes a temporary file of its own: the file is always one of them, whole."""
    path = tmp_path / "metrics.json"
    with writing_files(path) as (aside,):
        aside.write_text("ours")
        child = os.fork()
        if not child:
            try:
                write_text(path, "theirs")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_flushed_once(tmp_path, monkeypatch):
    paths = flushed(monkeypatch)
    write_text(tmp_path / "metrics.json", "{}")
    assert paths == [tmp_path / f".metrics.json.{os.getpid()}.tmp"]


@pytest.mark.parametrize("outer", [writing_folder, nullcontext], ids=["in a folder", "alone"])
def test_a_model_is_flushed_once(outer, tmp_path, monkeypatch):
    """In a folder that is written as a whole its files are flushed with it, and then the folder's name."""
    model, paths = make_model("bert"), flushed(monkeypatch)
    with outer(tmp_path / "best") as folder:
        model.save_pretrained(folder)
    files = ["README.md", "hyperloader.json", "model.safetensors"]
    if outer is writing_folder:
        assert sorted(paths) == sorted([tmp_path, *(tmp_path / "best.tmp" / name for name in files)])
    else:
        assert sorted(paths) == [tmp_path / "best" / f".{name}.{os.getpid()}.tmp" for name in files]
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == files
