"""Changing saved files and the hashes of them."""

import copy
import hashlib
import json
import socket
from pathlib import Path

import pytest

from hyperloader.checkpoints.descriptions import with_hash

# Values that no field expects, or expects of another size.
STRANGE = (
    None, True, 0, -1, 3, 10**9, 10**300, -0.5, 1e308, "", "owner/repo", [10**18] * 3, [[[[]]]], {}, {"x": {"x": None}},
)  # fmt: skip


def fields(values: dict, depth: int = 2) -> list[tuple[str, ...]]:
    """Paths of all fields of a description, to this depth."""
    found = []
    for name, value in values.items():
        found.append((name,))
        if isinstance(value, dict) and depth > 1:
            found += [(name, *rest) for rest in fields(value, depth - 1)]
    return found


def changed(values: dict, path: tuple[str, ...], value) -> dict:
    """A copy with another value at ``path``."""
    values = copy.deepcopy(values)
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return values


def write(folder: Path, name: str, values: dict) -> None:
    """Write ``values`` to the file ``name``, with every hash that others hold of it."""
    if name in ("task.json", "hyperloader.json"):
        (folder / name).write_text(json.dumps(with_hash(values)))
        return
    text = json.dumps(values)
    (folder / name).write_text(text)
    description = json.loads((folder / "task.json").read_text())
    description["sha256"][name] = hashlib.sha256(text.encode()).hexdigest()
    write(folder, "task.json", description)


@pytest.fixture
def no_network(monkeypatch):
    """Fail at the first look for another machine."""

    def refuse(*arguments, **options):
        raise AssertionError(f"the network was asked for {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
