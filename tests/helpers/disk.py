"""What reaches the disk, and a process that is interrupted while it writes."""

import os
from pathlib import Path


def flushed(monkeypatch) -> list[Path]:
    """The paths that are flushed from now on, in a list that grows."""
    paths, fsync = [], os.fsync

    def noted(descriptor):
        paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def interrupt_second_replace(monkeypatch) -> None:
    """Ctrl-C while the second file is renamed."""
    replace, calls = Path.replace, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
