"""The compiled extension ``hyperloader._C``: loads it, or knows why not.

Loading it registers the operators ``hyperloader::*``. With HYPERLOADER_NATIVE=none it is left alone. An extension
compiled against another release of torch may crash instead of failing to load, so the release is read from its file
first.
"""

import importlib
import importlib.metadata
import json
import os
import shlex
import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch

_PACKAGE = Path(__file__).resolve().parents[1]
_MARK = b"hyperloader compiled against torch "  # stands in the extension, before the release; see csrc/module.cpp


def rebuild_command() -> str:
    """Return the command that compiles the extension against the torch of this environment."""
    pip = f"HYPERLOADER_NATIVE=cpu {shlex.quote(sys.executable)} -m pip install --no-deps"
    if (_PACKAGE.parent / "setup.py").exists():
        return f"{pip} --editable {shlex.quote(str(_PACKAGE.parent))}"
    source = _source()
    if source.endswith(".whl"):  # which would be installed again as it is
        source = "FOLDER_OF_THE_SOURCE"
    return f"{pip} --force-reinstall --no-cache-dir {shlex.quote(source)}"


def build_info() -> dict[str, object] | None:
    """Return how the loaded extension was compiled, None where there is none (``reason`` says why).

    Keys: ``compiler``, ``flags``, ``cxx_standard``, ``torch``, ``instruction_sets`` (that the CPU kernels were compiled
    for), ``instruction_set`` (of these, the one in use), ``multiplies_bfloat16`` (whether this processor does, by
    AVX512-BF16), ``cuda`` (its release or None).
    """
    return None if _extension is None else _extension.build_info()


def extension() -> ModuleType:
    """Return the loaded extension; only where ``available``."""
    assert _extension is not None
    return _extension


def _source() -> str:
    """Return what the package was installed from: a folder, an archive, or its name where an index had it."""
    try:
        record = importlib.metadata.distribution("hyperloader").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return "hyperloader"
    return json.loads(record)["url"] if record else "hyperloader"


def _torch_release(path: Path) -> str | None:
    """Return the release of torch that the extension was compiled against, None where its file does not say."""
    _, mark, rest = path.read_bytes().partition(_MARK)
    return rest[: rest.index(b"\0")].decode() if mark else None


def _load() -> tuple[ModuleType | None, str | None]:
    """Return the extension and None, or None and the reason why there is none."""
    if os.environ.get("HYPERLOADER_NATIVE") == "none":
        return None, "HYPERLOADER_NATIVE=none is set"
    # In this package's own folders: an editable install of it elsewhere would answer for any copy.
    spec = PathFinder.find_spec("hyperloader._C", sys.modules["hyperloader"].__path__)
    if spec is None or spec.origin is None:
        return None, "it was not built"
    release, current = _torch_release(Path(spec.origin)), torch.__version__.partition("+")[0]
    if release != current:
        return None, f"it was built against torch {release}, and this is torch {current}"
    try:
        return importlib.import_module("hyperloader._C"), None
    except ImportError as error:
        return None, f"it cannot be loaded ({error})"


_extension, reason = _load()
available = _extension is not None

if not available and os.environ.get("HYPERLOADER_NATIVE") != "none":
    warnings.warn(
        f"hyperloader runs without its native extension: {reason}. Everything works, more slowly. "
        f"To build it: {rebuild_command()}    To be silent about it: HYPERLOADER_NATIVE=none",
        RuntimeWarning,
        stacklevel=2,
    )
