"""Files and folders that are complete or not there: written aside, flushed to the disk, renamed.

The process may be killed and the disk be full at any moment: what was there before stays until the new is complete.
Every file is flushed once, which makes its name durable too.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_ASIDE, _OLD = ".tmp", ".old"
_FILE_ASIDE = re.compile(rf"\..+\.\d+\{_ASIDE}")
_FILE_ASIDE_BEFORE = re.compile(r".+\.(json|yaml)\.part")  # of earlier versions
_ROOM = 1 << 20  # bytes; less is no room for a checkpoint
_folders: set[Path] = set()  # that are being written


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the last complete one is untouched."""


def write_text(path: Path, text: str) -> None:
    """Write one file as UTF-8; raises ``OSError``, and keeps what was there before, when anything goes wrong."""
    write_files({path: text.encode()})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together; raises what ``writing_files`` raises."""
    with writing_files(*contents) as asides:
        for aside, content in zip(asides, contents.values(), strict=True):
            aside.write_bytes(content)


@contextmanager
def writing_files(*paths: Path) -> Iterator[Sequence[Path]]:
    """Files to write instead of ``paths``, whose places they take at the end: all, once one has.

    In a folder that ``writing_folder`` writes they are ``paths`` themselves: they are flushed and renamed with it.
    Raises ``OSError`` for what cannot be written.
    """
    if all(path.parent in _folders for path in paths):
        yield paths
        return
    asides = [path.with_name(f".{path.name}.{os.getpid()}{_ASIDE}") for path in paths]
    try:
        yield asides
        for aside in asides:
            flush(aside)
        try:
            _take_places(asides, paths)
        except BaseException:  # Ctrl-C, say, between two of them
            _take_places(asides, paths)
            raise
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)


def _take_places(asides: Sequence[Path], paths: Sequence[Path]) -> None:
    for aside, path in zip(asides, paths, strict=True):
        if aside.exists():
            aside.replace(path)


@contextmanager
def writing_folder(folder: Path, main: bool = True, wait: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder to write into, which becomes ``folder``, whole, at the end.

    What was in ``folder`` before is replaced at the end, or kept when anything goes wrong. ``recover`` finds ``folder``
    as it was before or as it is after. The folder around it is not made anew where it was deleted.

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
        _folders.add(aside)
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
    except _write_errors() as error:
        full = disk_is_full(error, folder.parent)  # before what was written is removed
        if main:
            shutil.rmtree(aside, ignore_errors=True)
        reason, remedy = (f"the disk is full: {error}", "make room") if full else (str(error), "see to that")
        raise CheckpointError(
            f"{folder}: cannot be written ({reason}); what was saved before is intact: {remedy} and resume the run "
            "from there"
        ) from error
    finally:
        _folders.discard(aside)


def remove_folder(folder: Path) -> None:
    """Remove ``folder``, which is whole until it is gone."""
    doomed = _beside(folder, _ASIDE)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def recover(parent: Path) -> None:
    """Remove what a killed process left in ``parent``, a folder of its own where no other writes now, and put back what
    it had moved away."""
    remove_asides(parent)
    for path in list(parent.iterdir()):
        folder = path.with_suffix("")
        if path.suffix == _OLD and path.is_dir() and not folder.exists():
            path.rename(folder)
        elif path.suffix in (_OLD, _ASIDE) and path.is_dir():
            shutil.rmtree(path)
        elif _FILE_ASIDE_BEFORE.fullmatch(path.name):
            path.unlink()


def remove_asides(parent: Path) -> None:
    """Remove the files that a killed process left half-written in ``parent``, where no other writes now."""
    for path in list(parent.iterdir()):
        if _FILE_ASIDE.fullmatch(path.name):
            path.unlink()


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


def flush(path: Path) -> None:
    """Make sure that a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_errors() -> tuple[type[Exception], ...]:
    """What writing raises: torch reports a full disk as ``RuntimeError``."""
    from safetensors import SafetensorError

    return OSError, SafetensorError, RuntimeError


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
