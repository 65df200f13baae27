"""Files and folders that are complete or absent: written under a temporary name, flushed to the disk, renamed.

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

_TEMPORARY, _OLD = ".tmp", ".old"
_TEMPORARY_FILE = re.compile(rf"\..+\.\d+\{_TEMPORARY}")
_EARLIER_TEMPORARY_FILE = re.compile(r".+\.(json|yaml)\.part")  # of earlier versions
_ROOM = 1 << 20  # bytes; less is no room for a checkpoint
_folders: set[Path] = set()  # that are being written


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the last complete one is untouched."""


def write_text(path: Path, text: str) -> None:
    """Write one file as UTF-8; raises ``OSError``, and keeps what was there before, when anything goes wrong."""
    write_files({path: text.encode()})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together; raises what ``writing_files`` raises."""
    with writing_files(*contents) as temporaries:
        for temporary, content in zip(temporaries, contents.values(), strict=True):
            temporary.write_bytes(content)


@contextmanager
def writing_files(*paths: Path) -> Iterator[Sequence[Path]]:
    """Temporary files to write instead of ``paths``; at the end they are renamed, all of them once one has been.

    In a folder that ``writing_folder`` writes they are ``paths`` themselves: they are flushed and renamed with it.
    Raises ``OSError`` for what cannot be written.
    """
    if all(path.parent in _folders for path in paths):
        yield paths
        return
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}") for path in paths]
    try:
        yield temporaries
        for temporary in temporaries:
            flush(temporary)
        try:
            _rename_all(temporaries, paths)
        except BaseException:  # Ctrl-C, say, between two of them
            _rename_all(temporaries, paths)
            raise
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def _rename_all(temporaries: Sequence[Path], paths: Sequence[Path]) -> None:
    for temporary, path in zip(temporaries, paths, strict=True):
        if temporary.exists():
            temporary.replace(path)


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
    temporary, old = _beside(folder, _TEMPORARY), _beside(folder, _OLD)
    try:
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        wait()
        _folders.add(temporary)
        yield temporary
        wait()
        if main:
            for file in temporary.iterdir():  # those of the other processes too
                flush(file)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            temporary.rename(folder)
            flush(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        wait()
    except _write_errors() as error:
        full = disk_is_full(error, folder.parent)  # before what was written is removed
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        reason, remedy = (f"the disk is full: {error}", "make room") if full else (str(error), "see to that")
        raise CheckpointError(
            f"{folder}: cannot be written ({reason}); what was saved before is intact: {remedy} and resume the run "
            "from there"
        ) from error
    finally:
        _folders.discard(temporary)


def remove_folder(folder: Path) -> None:
    """Remove ``folder``, which is whole until it is gone."""
    temporary = _beside(folder, _TEMPORARY)
    folder.rename(temporary)
    shutil.rmtree(temporary)


def recover(parent: Path) -> None:
    """Remove what a killed process left half-written in ``parent``, where no other process writes now, and put back the
    folders that it had renamed."""
    remove_temporary_files(parent)
    for path in list(parent.iterdir()):
        folder = path.with_suffix("")
        if path.suffix == _OLD and path.is_dir() and not folder.exists():
            path.rename(folder)
        elif path.suffix in (_OLD, _TEMPORARY) and path.is_dir():
            shutil.rmtree(path)
        elif _EARLIER_TEMPORARY_FILE.fullmatch(path.name):
            path.unlink()


def remove_temporary_files(parent: Path) -> None:
    """Remove the files that a killed process left half-written in ``parent``, where no other process writes now."""
    for path in list(parent.iterdir()):
        if _TEMPORARY_FILE.fullmatch(path.name):
            path.unlink()


def disk_is_full(error: BaseException, folder: Path | None = None) -> bool:
    """Whether ``error`` comes from a full disk or a used-up quota, if need be by the room left in ``folder``.

    torch and safetensors report it in messages of their own, or as a file that is too short.
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
