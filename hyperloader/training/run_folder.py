"""A run's folder belongs to one run at a time, and must stay the same folder while that run trains."""

import dataclasses
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from hyperloader.data.heads import TOKEN_CLASSIFICATION
from hyperloader.json_file import read_json
from hyperloader.training.folders import checkpoints
from hyperloader.training.presets import PRESETS
from hyperloader.training.progress import Progress
from hyperloader.training.run_config import RunConfig
from hyperloader.validation import A_FEW, listed, shown

CONFIG, METRICS, LABELS, BEST = "config.yaml", "metrics.json", "labels.json", "best"
COUNTS, KINDS = "test.counts.npz", "kinds.json"  # the latter where there are tasks of whole sentences
LOCK = ".lock"
_LONGEST_CHANGE = 250  # characters of a key with its values in a message
_logger = logging.getLogger("hyperloader")
_mine: set[str] = set()  # folders of this process, which the system's locks do not keep from itself
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class RunFolderError(RuntimeError):
    """The folder of a run belongs to another process, or is gone."""


class RunFolder:
    """A folder that this process has for itself; made by ``own_folder``."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor  # while it is open, no other folder can get the same number

    def check(self) -> None:
        """Raise ``RunFolderError`` unless the folder is still there, and still the same."""
        try:
            same = os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except FileNotFoundError:
            same = False
        if not same:
            raise RunFolderError(
                f"{self.path}: the folder was deleted, moved or replaced while its run trained; nothing more can be "
                "saved: start the run again, or move the folder back and resume it"
            )


@contextmanager
def own_folder(path: Path) -> Iterator[RunFolder]:
    """Own the folder of a run, made if need be: no other process trains there meanwhile.

    The lock is one of the operating system: it ends with the process, however that ends. At the end the lock's file is
    removed, and so are the folders that were made here and are empty.

    Raises:
        RunFolderError: another process owns it.
    """
    real = os.path.realpath(path)
    if real in _mine:
        raise RunFolderError(f"{path}: this process trains there already; wait for it or choose another output")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        lock = _locked(path)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        _mine.add(real)
        try:
            yield RunFolder(path, folder)
        finally:
            _mine.discard(real)
            os.close(folder)
            with suppress(FileNotFoundError):
                (path / LOCK).unlink()
            os.close(lock)
    finally:
        with suppress(OSError):  # of folders that hold something by now
            for new in made:
                new.rmdir()


def check_output(config: RunConfig, resume: bool) -> dict | None:
    """Check that the run's output is free or holds this very run; the metrics if that is finished.

    Raises:
        ValueError: the output holds another run, or a run and ``resume`` is False.
    """
    output = Path(config.output)
    if not (output / CONFIG).is_file():
        if checkpoints(output) or (output / BEST).exists():
            raise ValueError(f"{output}: holds checkpoints but no {CONFIG}; choose another output")
        return None
    if not resume:
        raise ValueError(f"{output}: holds a run already; resume it, remove it or choose another output")
    before = dataclasses.asdict(with_earlier_defaults(RunConfig.from_yaml(output / CONFIG))) | {"output": config.output}
    now = dataclasses.asdict(stated(config))
    if "valid_tags" in now["training"]:
        before["training"].setdefault("valid_tags", now["training"]["valid_tags"])  # of an earlier version
    last, free = next(reversed(checkpoints(output)), None), {"compile", "recompute_norms"}  # the same but for rounding
    if last is not None and not Progress.load(last).finished:  # how many sentences a step has is checked by that
        free.add("batch_size")
    for one in (before, now):
        one["training"] = {key: value for key, value in one["training"].items() if key not in free}
    check_same(before, now, output, "run")
    metrics = output / METRICS
    return read_json(metrics, "the metrics of a run") if metrics.is_file() else None


def stated(config: RunConfig) -> RunConfig:
    """``config`` with the options said that its model and answers depend on, so that its folder is read alike by a
    version with other defaults."""
    model, training = dict(config.model), dict(config.training)
    if config.method == "hyperloader":
        model["base_weights"] = config.model_options.get("base_weights", False)
        training["learning_rate"] = config.options.learning_rate
    if config.head == TOKEN_CLASSIFICATION:
        training["valid_tags"] = config.options.valid_tags
        training["head_base_width"] = config.options.head_base_width
    return dataclasses.replace(config, model=model, training=training)


def with_earlier_defaults(config: RunConfig) -> RunConfig:
    """The config of a run's folder. One of an earlier version, which knew no base weights or one learning rate for all,
    is completed with what was the default then."""
    if config.head == TOKEN_CLASSIFICATION:
        config = dataclasses.replace(config, training={"head_base_width": 0.0, **config.training})
    if config.method != "hyperloader":
        return config
    training = {"learning_rate": PRESETS[config.preset].learning_rate, **config.training}
    return dataclasses.replace(config, model={"base_weights": False, **config.model}, training=training)


def check_same(before: Mapping, now: Mapping, where: object, what: str) -> None:
    """Raise ``ValueError`` unless the values of two runs or searches (``what``) are the same; it tells what differs."""
    if changed := _differences(before, now):
        told = listed(changed, "keys", _LONGEST_CHANGE, A_FEW)
        raise ValueError(f"{where}: holds another {what}, which differs in {told}; choose another output")


def _differences(before: Mapping, now: Mapping, section: str = "") -> list[str]:
    """The keys whose values differ, with both of these; inside a section those of the section."""
    found = []
    for key in {**before, **now}:
        one, other = ({key: values[key]} if key in values else {} for values in (before, now))
        if all(isinstance(values.get(key), Mapping) for values in (one, other)):
            found += _differences(one[key], other[key], f"{section}{key}.")
        elif one.get(key) != other.get(key):
            there, here = ("nothing" if values.get(key) is None else shown(values[key]) for values in (one, other))
            found.append(f"{section}{key} ({there} there, {here} here)")
    return found


def _locked(path: Path) -> int:
    """The open and locked file ``path/.lock``."""
    file = path / LOCK
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 300, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            if error.errno in _TAKEN:
                raise RunFolderError(
                    f"{path}: another run trains there now ({owner}); wait for it, end it or choose another output"
                ) from None
            if error.errno not in _NO_LOCKS:
                raise
            descriptor = os.open(file, os.O_RDWR)
            _logger.warning("warning: %s: its file system has no locks; start no second run there", path)
        else:
            try:
                current = os.path.samestat(os.fstat(descriptor), os.stat(file))
            except FileNotFoundError:
                current = False
            if not current:  # its last owner has removed it meanwhile
                os.close(descriptor)
                continue
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode(), 0)
        return descriptor
