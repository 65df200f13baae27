"""The build backend: setuptools, with the torch of the environment that the package is installed into.

An isolated build sees none of that environment, and naming torch as a requirement of the build would download a second
one, to compile against which is wrong. So the environment's interpreter is asked where its torch is; its search path
is put behind the isolated one. Only where there is no torch does the build ask for one.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  the hooks that need nothing more
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

_ASK = """
import importlib.util, json, sys
print(json.dumps([importlib.util.find_spec("torch") is not None, list(sys.version_info[:2]), sys.path[1:]]))
"""


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch()


def _torch() -> list[str]:
    wanted = os.environ.get("HYPERLOADER_NATIVE") != "none" and importlib.util.find_spec("torch") is None
    return ["torch"] if wanted else []


def _interpreters() -> list[str]:
    """Return pip's own interpreter, then that of the activated environment: `python -m build` runs in a new one."""
    folder = os.environ.get("VIRTUAL_ENV")
    activated = [Path(folder, "bin", "python")] if folder else []
    return [sys.executable, *(str(interpreter) for interpreter in activated if interpreter.exists())]


def _add_search_path_of_torch() -> None:
    # Without PYTHONPATH and PYTHONNOUSERSITE, which are how the build is isolated.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for interpreter in _interpreters():
        answer = subprocess.run([interpreter, "-c", _ASK], env=clean, capture_output=True, text=True)
        if answer.returncode != 0:
            continue
        found, version, path = json.loads(answer.stdout)
        if found and tuple(version) == sys.version_info[:2]:
            sys.path.extend(folder for folder in path if folder not in sys.path)
            return


if importlib.util.find_spec("torch") is None:
    _add_search_path_of_torch()
