"""Reading a task file: YAML to checked entries, every fault with its line."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hyperloader.config import CLASSIFICATION, MULTI_LABEL, TAGGING
from hyperloader.data.kinds import TASK_KINDS
from hyperloader.data.paths import existing, expanded
from hyperloader.data.schemes import TAGS
from hyperloader.data.sentence import DataError
from hyperloader.data.text_readers import columns_of
from hyperloader.data.yaml_text import compose, read_yaml
from hyperloader.validation import did_you_mean, naming, nearest, shown

_KEYS = ("name", "path", "dataset", "config", "columns", "splits", "tags", "names", "kind", "multi_label")
WORDS = ("description", "labels")
KEYS = (*_KEYS, *WORDS)
COLUMN_KEYS = ("tokens", "tags", "sentence", "text", "spans")
SPLIT_KEYS = ("train", "validation", "test", "seed")
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)")
_DIGITS = 9  # of the number of a column
Where = Callable[[yaml.Node], str]  # what a message about a value starts with, as FILE:LINE


@dataclass(frozen=True)
class TaskEntry:
    """One task as the file names it: ``path``, or ``dataset`` with ``config``; ``where`` begins messages about it, as
    ``FILE:LINE``.

    kind: of ``hyperloader.data.kinds.Kind``. columns: names or numbers of columns. splits: the file or the split of
    the data set by name of the split. shares: the part of train that a split is carved from, with ``seed``. tags: the
    scheme. names: what numbers as tags or labels stand for. description: phrasings of what the task is about;
    label_words: words for its labels, of a tagger for types of spans; ``labels_where`` begins messages about them.
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
    kind: str = TAGGING
    description: tuple[str, ...] = ()
    label_words: dict[str, str] = field(default_factory=dict)
    labels_where: str = ""


def read_task_file(path: Path) -> list[TaskEntry]:
    """The entries of a task file (format: ``load_tasks``).

    Raises:
        DataError: a missing file, no YAML, an unknown or repeated key, a repeated task name, a value of the wrong kind,
            an environment variable that is not set.
    """
    try:
        root = read_yaml(path, "the task file", compose)
    except OSError as error:
        raise DataError(f"{path}: the task file cannot be read ({error.strerror}); correct the path") from None
    if root is None:
        raise DataError(f"{path}:1: the task file is empty; write tasks: [{{name: NAME, path: FOLDER}}]")

    def where(node: yaml.Node) -> str:
        return f"{path}:{node.start_mark.line + 1}"

    tasks = _mapping(root, where, ("tasks",)).get("tasks")
    if not isinstance(tasks, yaml.SequenceNode) or not tasks.value:
        raise DataError(f"{where(tasks or root)}: tasks must be a list with at least one task")
    return _each_once(_entry(node, where, path.parent) for node in tasks.value)


def entries_from(values: Sequence) -> list[TaskEntry]:
    """The entries that ``values`` describe, as the items of ``tasks`` in a file would; relative paths start at the
    working directory.

    Raises:
        DataError: as ``read_task_file``; messages start with the item, as ``tasks[1]``.
    """
    return _each_once(entry_from(one, f"tasks[{number}]") for number, one in enumerate(values))


def entry_from(values: Any, where: str) -> TaskEntry:
    """The entry that ``values`` describe, as an item of ``tasks`` would; relative paths start at the working directory.

    Raises:
        DataError: as ``read_task_file``; messages start with ``where``.
    """
    try:
        node = yaml.representer.SafeRepresenter().represent_data(values)
    except yaml.representer.RepresenterError as error:
        raise DataError(f"{where}: must hold text, numbers, lists and mappings alone, got {error.args[1]!r}") from None
    return _entry(node, lambda node: where, Path())


def _each_once(entries: Iterable[TaskEntry]) -> list[TaskEntry]:
    found: dict[str, TaskEntry] = {}
    for entry in entries:
        if entry.name in found:
            raise DataError(
                f"{entry.where}: task {entry.name!r} stands already at {found[entry.name].where}; rename one"
            )
        found[entry.name] = entry
    return list(found.values())


def _entry(node: yaml.Node, where: Where, folder: Path) -> TaskEntry:
    fields = _mapping(node, where, KEYS)
    if "name" not in fields:
        raise DataError(f"{where(node)}: the task has no name; add name: NAME")
    if ("path" in fields) == ("dataset" in fields):
        raise DataError(f"{where(node)}: a task must have either path or dataset, got {', '.join(fields)}")
    kind = _kind(fields, where)
    special = {key: fields.pop(key) for key in ("columns", "splits", "names", *WORDS) if key in fields}
    values: dict[str, Any] = {key: _text(value, key, where) for key, value in fields.items()}
    if values.get("tags", TAGS[0]) not in TAGS:
        got = f"{shown(values['tags'])}{nearest(values['tags'], TAGS)}"
        raise DataError(f"{where(fields['tags'])}: tags must be one of {', '.join(TAGS)}, got {got}")
    if "path" in values:
        if "config" in values:
            raise DataError(f"{where(node)}: config goes with dataset only; remove it or path")
        values["path"] = folder / _expand(values["path"], where(fields["path"]))
    else:
        values["dataset"] = _expand(values["dataset"], where(fields["dataset"]))
        local = existing("dataset", values["dataset"], folder)
        if local is None and values["dataset"].startswith((".", "/")):
            local = str(folder / values["dataset"])
        values["dataset"] = local or values["dataset"]
    if "columns" in special:
        fields = _mapping(special["columns"], where, COLUMN_KEYS if kind == TAGGING else columns_of(kind))
        values["columns"] = {key: _column(value, key, where) for key, value in fields.items()}
    if "splits" in special:
        values |= _splits(special["splits"], where)
    if "names" in special:
        names = special["names"]
        if not isinstance(names, yaml.SequenceNode) or not names.value:
            example = "tags, as [O, B-city, I-city]" if kind == TAGGING else "labels, as [negative, positive]"
            raise DataError(f"{where(names)}: names must be a list of {example}")
        values["names"] = [_text(one, "names", where) for one in names.value]
    return TaskEntry(where=where(node), kind=kind, **values, **_words({key: special.get(key) for key in WORDS}, where))


def _words(nodes: dict[str, yaml.Node | None], where: Where) -> dict[str, Any]:
    """What an entry says about its task in words."""
    description, labels, values = nodes["description"], nodes["labels"], dict[str, Any]()
    if description is not None:
        several = description.value if isinstance(description, yaml.SequenceNode) else [description]
        if not several:
            raise DataError(f"{where(description)}: description must not be empty")
        values["description"] = tuple(_text(one, "description", where) for one in several)
    if labels is not None:
        if not isinstance(labels, yaml.MappingNode):
            raise DataError(f"{where(labels)}: labels must map labels to words, as {{LOC: a place}}")
        values["labels_where"] = where(labels)
        values["label_words"] = {
            str(name.value): _text(words, f"labels.{name.value}", where) for name, words in labels.value
        }
    return values


def _kind(fields: dict[str, yaml.Node], where: Where) -> str:
    """The kind of a task, whose keys are taken from its ``fields``; those that go with another kind are refused."""
    node, several = fields.pop("kind", None), fields.pop("multi_label", None)
    kind = TAGGING if node is None else _text(node, "kind", where)
    if node is not None and kind not in TASK_KINDS:
        hint = nearest(kind, TASK_KINDS)
        raise DataError(f"{where(node)}: kind must be one of {', '.join(TASK_KINDS)}, got {shown(kind)}{hint}")
    for key, kinds in (("tags", (TAGGING,)), ("names", (TAGGING, CLASSIFICATION))):
        if key in fields and kind not in kinds:
            raise DataError(f"{where(fields[key])}: {key} goes with kind: {' or '.join(kinds)}; remove it, got {kind}")
    if several is None:
        return kind
    if not isinstance(several, yaml.ScalarNode) or several.tag != "tag:yaml.org,2002:bool":
        raise DataError(f"{where(several)}: multi_label must be true or false, got {several.value!r:.80}")
    if kind != CLASSIFICATION:
        raise DataError(f"{where(several)}: multi_label goes with kind: {CLASSIFICATION}; remove it, got {kind}")
    return MULTI_LABEL if yaml.safe_load(several.value) else kind


def _column(node: yaml.Node, key: str, where: Where) -> str | int:
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int":
        if len(node.value) > _DIGITS:
            raise DataError(f"{where(node)}: {key} must be the name or number of a column, got {node.value:.20}...")
        return int(yaml.safe_load(node.value))
    return _text(node, key, where)


def _splits(node: yaml.Node, where: Where) -> dict[str, Any]:
    """``splits``, ``shares`` and ``seed`` of an entry: a name is a file or a split, a number or a percentage a
    share."""
    fields = _mapping(node, where, SPLIT_KEYS)
    values: dict[str, Any] = {"splits": {}, "shares": {}}
    for key, value in fields.items():
        text = value.value.strip() if isinstance(value, yaml.ScalarNode) else ""
        if key == "seed":
            if not text.isdecimal():
                raise DataError(f"{where(value)}: seed must be a whole number, at least 0, got {text or value.id!r}")
            values["seed"] = int(text)
        elif match := _SHARE.fullmatch(text):
            share = float(match[1]) / (100 if match[2] else 1)
            if key == "train" or not 0 < share < 1:
                raise DataError(
                    f"{where(value)}: a share must be of validation or test, above 0% and below 100%, got {text}"
                )
            values["shares"][key] = share
        else:
            values["splits"][key] = _text(value, key, where)
    if sum(values["shares"].values()) >= 1:
        raise DataError(f"{where(node)}: the shares of splits must leave something for train; lower them")
    if "seed" in values and not values["shares"]:
        raise DataError(f"{where(node)}: seed goes with a share, as {{validation: 10%, seed: 1}}; remove it")
    return values


def _mapping(node: yaml.Node, where: Where, known: tuple[str, ...]) -> dict[str, yaml.Node]:
    """The fields of a YAML mapping; every key is one of ``known`` and stands once."""
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{where(node)}: there must be a mapping with the keys {', '.join(known)}")
    fields = {}
    for key_node, value in node.value:
        key = str(key_node.value)
        if key not in known:
            hint = did_you_mean(key, known) or f"the keys are {', '.join(known)}"
            raise DataError(f"{where(key_node)}: unknown key {key!r}; {hint}")
        fields[key] = value
    return fields


def _text(node: yaml.Node, key: str, where: Where) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        got = repr(node.value) if isinstance(node, yaml.ScalarNode) else node.id
        raise DataError(f"{where(node)}: {key} must be text, got {got}; put it in quotes")
    if not node.value.strip():
        raise DataError(f"{where(node)}: {key} must not be empty")
    return node.value


def _expand(value: str, where: str) -> str:
    with naming(where, DataError):
        return expanded(value)
