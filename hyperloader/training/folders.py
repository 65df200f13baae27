"""The checkpoints in a run's folder."""

import re
from pathlib import Path

from hyperloader.checkpoints.atomic import remove_folder


def checkpoints(parent: Path) -> list[Path]:
    """The complete checkpoints in ``parent``, by step."""
    found = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in parent.glob("checkpoint-*"))
    return [path for _, path in sorted((int(name[1]), path) for name, path in found if name)]


def prune(parent: Path, keep: int) -> None:
    """Remove all complete checkpoints in ``parent`` but the last ``keep``."""
    for folder in checkpoints(parent)[:-keep]:
        remove_folder(folder)
