"""Paths in a user's file: they start at the file's folder, whatever the working directory is."""

import logging
import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")
_logger = logging.getLogger("hyperloader")


def starts_elsewhere(value: str) -> bool:
    """Whether a path starts with ``~`` or an environment variable, and so at no folder that is known here."""
    return value.startswith(("$", "~"))


def expanded(value: str) -> str:
    """``value`` with ``~`` and environment variables filled in. Raises ValueError for a variable that is not set."""

    def replace(match: re.Match) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise ValueError(f"the environment variable {name!r} is not set; set it or write the path out")
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(replace, value))


def from_folder(value: str, folder: Path) -> str:
    """``value``, with ``~`` and variables filled in, as an absolute path from ``folder``."""
    return os.path.abspath(folder / expanded(value))


def existing(key: str, value: str, folder: Path) -> str | None:
    """The file or folder that ``value`` names, as an absolute path: from ``folder``, else from the working directory,
    which is said in a warning. None where neither has it, and the value may be a name on the Hub.
    """
    if (path := Path(from_folder(value, folder))).exists():
        return str(path.resolve())
    if (path := Path(from_folder(value, Path()))).exists():
        warn_of_working_directory(key, value, path, folder)
        return str(path.resolve())
    return None


def warn_of_working_directory(key: str, value: str, found: Path, folder: Path) -> None:
    """Say that a path was looked for in the folder of its file and found in the working directory."""
    relative = os.path.relpath(found, folder.resolve())
    _logger.warning(
        "warning: %s %r is not in %s, where its file is, but in the working directory, and is taken from there; "
        "write %s: %s",
        key,
        value,
        folder.resolve(),
        key,
        relative,
    )
