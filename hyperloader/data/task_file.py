"""Reading a task file: YAML to checked entries, every fault with its line."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from hyperloader.config import did_you_mean

from .sentence import DataError

KEYS = ("name", "path", "dataset", "config", "columns")
COLUMN_KEYS = ("tokens", "tags")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


@dataclass(frozen=True)
class TaskEntry:
    """One task as the file names it: `path`, or `dataset` with `config` and `columns`; `where` is `FILE:LINE`."""

    name: str
    where: str
    path: Path | None = None
    dataset: str | None = None
    config: str | None = None
    columns: dict[str, str] | None = None


def read_task_file(path: Path) -> list[TaskEntry]:
    """The entries of a task file (format: `load_tasks`).

    Raises:
        DataError: a missing file, no YAML, an unknown or repeated key, a repeated task name, a value of the wrong kind,
            an environment variable that is not set.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: the task file cannot be read ({error.strerror}); correct the path") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: the task file is not UTF-8; save it as UTF-8") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", "unreadable")
        raise DataError(f"{path}:{line}: invalid YAML ({problem}); correct it") from None
    if root is None:
        raise DataError(f"{path}:1: the task file is empty; write tasks: [{{name: NAME, path: FOLDER}}]")
    tasks = _mapping(root, path, ("tasks",)).get("tasks")
    if not isinstance(tasks, yaml.SequenceNode) or not tasks.value:
        raise DataError(f"{path}:{_line(tasks or root)}: tasks must be a list with at least one task")
    entries, names = [], {}
    for node in tasks.value:
        entry = _entry(node, path)
        if entry.name in names:
            raise DataError(f"{entry.where}: task {entry.name!r} stands already at {names[entry.name]}; rename one")
        names[entry.name] = entry.where
        entries.append(entry)
    return entries


def _entry(node, path: Path) -> TaskEntry:
    where = f"{path}:{_line(node)}"
    fields = _mapping(node, path, KEYS)
    if "name" not in fields:
        raise DataError(f"{where}: the task has no name; add name: NAME")
    if ("path" in fields) == ("dataset" in fields):
        raise DataError(f"{where}: a task must have either path or dataset, got {', '.join(fields)}")
    columns = fields.pop("columns", None)
    values = {key: _text(value, key, path) for key, value in fields.items()}
    if "path" in values:
        if columns is not None or "config" in values:
            raise DataError(f"{where}: config and columns go with dataset only; remove them or path")
        values["path"] = path.parent / _expand(values["path"], f"{path}:{_line(fields['path'])}")
    else:
        values["dataset"] = _expand(values["dataset"], f"{path}:{_line(fields['dataset'])}")
        local = path.parent / values["dataset"]
        if local.exists() or values["dataset"].startswith((".", "/")):
            values["dataset"] = str(local)
    if columns is not None:
        fields = _mapping(columns, path, COLUMN_KEYS)
        values["columns"] = {key: _text(value, key, path) for key, value in fields.items()}
    return TaskEntry(where=where, **values)


def _line(node) -> int:
    return node.start_mark.line + 1


def _mapping(node, path: Path, known: tuple[str, ...]) -> dict:
    """The fields of a YAML mapping; every key is one of `known` and stands once."""
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}:{_line(node)}: there must be a mapping with the keys {', '.join(known)}")
    fields = {}
    for key_node, value in node.value:
        key, line = str(key_node.value), _line(key_node)
        if key not in known:
            hint = did_you_mean(key, known) or f"the keys are {', '.join(known)}"
            raise DataError(f"{path}:{line}: unknown key {key!r}; {hint}")
        if key in fields:
            raise DataError(f"{path}:{line}: key {key!r} stands twice; remove one")
        fields[key] = value
    return fields


def _text(node, key: str, path: Path) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        got = repr(node.value) if isinstance(node, yaml.ScalarNode) else node.id
        raise DataError(f"{path}:{_line(node)}: {key} must be text, got {got}; put it in quotes")
    if not node.value.strip():
        raise DataError(f"{path}:{_line(node)}: {key} must not be empty")
    return node.value


def _expand(value: str, where: str) -> str:
    def replace(match: re.Match) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise DataError(f"{where}: the environment variable {name!r} is not set; set it or write the path out")
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(replace, value))
