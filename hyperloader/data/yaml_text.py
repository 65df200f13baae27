"""YAML that anybody may have written: of limited length, depth and number of values, aliases counted as what they stand
for, and every key once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from hyperloader.data.sentence import DataError

MAX_CHARACTERS = 4 << 20
MAX_DEPTH = 32
MAX_VALUES = 500_000


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.values: dict[int, int] = {}  # id of a node -> values in it, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.values:
                raise ComposerError(None, None, f"the alias *{event.anchor} stands for itself", event.start_mark)
            return node
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            parts = [part for pair in parts for part in pair]
        self.values[id(node)] = 1 + sum(self.values[id(part)] for part in parts)
        if self.values[id(node)] > MAX_VALUES:
            raise ComposerError(None, None, f"more than {MAX_VALUES:,} values, aliases written out", event.start_mark)
        return node


def compose(text: str) -> yaml.Node | None:
    """The nodes of ``text``, None if it is empty.

    Raises:
        yaml.YAMLError: no YAML, a key that stands twice, or beyond the limits; with the place.
    """
    return _read(text, _Loader.get_single_node)


def load(text: str) -> Any:
    """The plain values of ``text``; raises what ``compose`` raises."""
    return _read(text, _Loader.get_single_data)


def read_yaml(path: Path, what: str, parse: Callable[[str], Any]) -> Any:
    """What ``parse``, one of ``compose`` and ``load``, reads in the file ``path``, which messages call ``what``.

    Raises:
        OSError: it cannot be read. DataError: no UTF-8, or no YAML, with the line.
    """
    try:
        return parse(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: {what} is not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or error
        raise DataError(f"{path}:{line}: invalid YAML ({problem}); correct it") from None


def _read(text: str, read: Callable[[_Loader], Any]) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"must have at most {MAX_CHARACTERS:,} characters, got {len(text):,}")
    loader = _Loader(text)
    try:
        return read(loader)
    except (ValueError, OverflowError, RecursionError) as error:  # an impossible date or number
        raise yaml.YAMLError(f"a value that cannot be read: {str(error).partition(';')[0]}") from error
    finally:
        loader.dispose()


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            first = lines.get((key.tag, key.value))
            if first is not None:
                raise ComposerError(None, None, f"the key {key.value!r} stands already in line {first}", key.start_mark)
            lines[key.tag, key.value] = key.start_mark.line + 1
