"""Folders that are complete or not there: written aside, flushed to disk, renamed."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_ASIDE, _OLD, _PART = ".tmp", ".old", ".part"
_ROOM = 1 << 20  # bytes; less is no room for a checkpoint


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the last complete one is untouched."""


@contextmanager
def writing(folder: Path, main: bool = True, wait: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder to write into, which becomes ``folder``, whole, at the end.

    What was in ``folder`` before is replaced at the end, or kept when anything goes wrong. The process may die at any
    moment: ``recover`` then finds ``folder`` as it was before or as it is after. The folder around it is not made anew
    where it was deleted.

    Args:
        main: False on the processes that only add files of their own to the folder.
        wait: waits for the other processes.

    Raises:
        CheckpointError: something could not be written.
    """
    aside, old = _beside(folder, _ASIDE), _beside(folder, _OLD)
    try:
        if main:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
        wait()
        yield aside
        for file in aside.iterdir() if main else ():
            flush(file)
        wait()
        if main:
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            aside.rename(folder)
            flush(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        wait()
    except (OSError, SafetensorError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        full = disk_is_full(error, folder.parent)  # before what was written is removed
        if main:
            shutil.rmtree(aside, ignore_errors=True)
        reason, remedy = (f"the disk is full: {error}", "make room") if full else (str(error), "see to that")
        raise CheckpointError(
            f"{folder}: cannot be written ({reason}); what was saved before is intact: {remedy} and resume the run "
            "from there"
        ) from error


def disk_is_full(error: BaseException, folder: Path | None = None) -> bool:
    """Whether ``error`` comes from a full disk or a used-up quota, if need be by the room left in ``folder``.

    torch and safetensors report it in words of their own, or as a file that came out too short.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if any(words in str(error) for words in ("No space left", "StorageFull", "Disk quota", "QuotaExceeded")):
        return True
    try:
        return folder is not None and shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False


def recover(parent: Path) -> None:
    """Remove what an interrupted ``writing`` or ``write_text`` left in ``parent``, and put back what it had moved
    away."""
    for old in parent.glob(f"*{_OLD}"):
        folder = old.with_name(old.name.removesuffix(_OLD))
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for aside in parent.glob(f"*{_ASIDE}"):
        shutil.rmtree(aside)
    for written_aside in (*parent.glob(f"*.json{_PART}"), *parent.glob(f"*.yaml{_PART}")):
        written_aside.unlink()


def checkpoints(parent: Path) -> list[Path]:
    """The complete checkpoints in ``parent``, by step."""
    found = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in parent.glob("checkpoint-*"))
    return [path for _, path in sorted((int(name[1]), path) for name, path in found if name)]


def prune(parent: Path, keep: int) -> None:
    """Remove all complete checkpoints in ``parent`` but the last ``keep``."""
    for folder in checkpoints(parent)[:-keep]:
        doomed = _beside(folder, _ASIDE)  # a name that is never taken for a complete checkpoint
        folder.rename(doomed)
        shutil.rmtree(doomed)


def write_text(path: Path, text: str) -> None:
    """Write a file aside, then rename it; when anything goes wrong, what was there before is kept."""
    aside = _beside(path, _PART)
    try:
        aside.write_text(text, encoding="utf-8")
        flush(aside)
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Make sure that a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
