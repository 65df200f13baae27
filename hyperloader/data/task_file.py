"""Reading a task file: YAML to checked entries, every fault with its line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hyperloader.validation import did_you_mean

from .paths import existing, expanded
from .schemes import TAGS
from .sentence import DataError
from .yaml_text import compose

KEYS = ("name", "path", "dataset", "config", "columns", "splits", "tags", "names")
COLUMN_KEYS = ("tokens", "tags", "sentence", "text", "spans")
SPLIT_KEYS = ("train", "validation", "test", "seed")
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)")
_DIGITS = 9  # of the number of a column


@dataclass(frozen=True)
class TaskEntry:
    """One task as the file names it: `path`, or `dataset` with `config`; `where` is `FILE:LINE`.

    columns: names or numbers of columns. splits: the file or the split of the data set by name of the split. shares:
    the part of train that a split is carved from, with `seed`. tags: the scheme. names: what numbers as tags stand for.
    """

    name: str
    where: str
    path: Path | None = None
    dataset: str | None = None
    config: str | None = None
    columns: dict[str, str | int] | None = None
    splits: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    tags: str | None = None
    names: list[str] | None = None


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
        root = compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or error
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


def entry_from(values: Mapping, source: str) -> TaskEntry:
    """The entry that `values` describe, as an item of `tasks` would; relative paths start at the working directory.

    Raises:
        DataError: as `read_task_file`; messages start with `source`.
    """
    text = yaml.safe_dump(dict(values), default_flow_style=True, width=1 << 30, allow_unicode=True)
    return _entry(compose(text), Path(source))


def _entry(node, path: Path) -> TaskEntry:
    where = f"{path}:{_line(node)}"
    fields = _mapping(node, path, KEYS)
    if "name" not in fields:
        raise DataError(f"{where}: the task has no name; add name: NAME")
    if ("path" in fields) == ("dataset" in fields):
        raise DataError(f"{where}: a task must have either path or dataset, got {', '.join(fields)}")
    special = {key: fields.pop(key) for key in ("columns", "splits", "names") if key in fields}
    values = {key: _text(value, key, path) for key, value in fields.items()}
    if values.get("tags", TAGS[0]) not in TAGS:
        hint = did_you_mean(values["tags"], TAGS) or f"must be one of {', '.join(TAGS)}"
        raise DataError(f"{path}:{_line(fields['tags'])}: tags {values['tags']!r}; {hint}")
    if "path" in values:
        if "config" in values:
            raise DataError(f"{where}: config goes with dataset only; remove it or path")
        values["path"] = path.parent / _expand(values["path"], f"{path}:{_line(fields['path'])}")
    else:
        values["dataset"] = _expand(values["dataset"], f"{path}:{_line(fields['dataset'])}")
        local = existing("dataset", values["dataset"], path.parent)
        if local is None and values["dataset"].startswith((".", "/")):
            local = str(path.parent / values["dataset"])
        values["dataset"] = local or values["dataset"]
    if "columns" in special:
        fields = _mapping(special["columns"], path, COLUMN_KEYS)
        values["columns"] = {key: _column(value, key, path) for key, value in fields.items()}
    if "splits" in special:
        values |= _splits(special["splits"], path)
    if "names" in special:
        node = special["names"]
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise DataError(f"{path}:{_line(node)}: names must be a list of tags, as [O, B-city, I-city]")
        values["names"] = [_text(one, "names", path) for one in node.value]
    return TaskEntry(where=where, **values)


def _column(node, key: str, path: Path) -> str | int:
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int":
        if len(node.value) > _DIGITS:
            raise DataError(
                f"{path}:{_line(node)}: {key} must be the name or number of a column, got {node.value:.20}..."
            )
        return int(yaml.safe_load(node.value))
    return _text(node, key, path)


def _splits(node, path: Path) -> dict:
    """`splits`, `shares` and `seed` of an entry: a name is a file or a split, a number or a percentage a share."""
    fields = _mapping(node, path, SPLIT_KEYS)
    values: dict = {"splits": {}, "shares": {}}
    for key, value in fields.items():
        where = f"{path}:{_line(value)}"
        text = value.value.strip() if isinstance(value, yaml.ScalarNode) else ""
        if key == "seed":
            if not text.isdecimal():
                raise DataError(f"{where}: seed must be a whole number, at least 0, got {text or value.id!r}")
            values["seed"] = int(text)
        elif match := _SHARE.fullmatch(text):
            share = float(match[1]) / (100 if match[2] else 1)
            if key == "train" or not 0 < share < 1:
                raise DataError(f"{where}: a share must be of validation or test, above 0% and below 100%, got {text}")
            values["shares"][key] = share
        else:
            values["splits"][key] = _text(value, key, path)
    if sum(values["shares"].values()) >= 1:
        raise DataError(f"{path}:{_line(node)}: the shares of splits must leave something for train; lower them")
    if "seed" in values and not values["shares"]:
        raise DataError(f"{path}:{_line(node)}: seed goes with a share, as {{validation: 10%, seed: 1}}; remove it")
    return values


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
    try:
        return expanded(value)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
