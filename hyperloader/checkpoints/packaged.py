"""Models that Python packages carry: their weights are found without an import, and checked."""

import importlib.util
from pathlib import Path

from hyperloader.checkpoints.descriptions import hash_of


def packaged_file(backbone: str, package: str, name: str, sha256: str, install: str) -> Path:
    """The file ``name`` in the folder of ``package``, which ``install`` installs.

    Raises:
        FileNotFoundError: the package is not installed, or lacks the file. ValueError: the file has another SHA-256.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"backbone {backbone} needs a package that is not installed; run: {install}")
    file, again = Path(spec.origin).parent / name, install.replace("--no-deps", "--no-deps --force-reinstall")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; reinstall it: {again}")
    found = hash_of(file.read_bytes())
    if found != sha256:
        raise ValueError(f"{file}: its SHA-256 must be {sha256}, got {found}; reinstall it: {again}")
    return file
