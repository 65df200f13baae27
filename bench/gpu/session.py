"""Runs steps in calls of some minutes: what is done is written down, so that the next call goes on."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.gpu.steps import ROOT, Step
from hyperloader.checkpoints.atomic import write_text

BUILD = "build"
BEGUN, DONE, FAILED = "begun", "done", "failed"


@dataclass
class Session:
    """The state of the steps in a folder of results.

    ``folder`` is where steps write; after each of them its files are brought to ``saved``, and into ``archive``, one
    file. Where the folder has no state, that of ``saved`` is gone on from.
    """

    folder: Path
    saved: Path | None = None
    archive: Path | None = None
    seconds: float = 540
    clock: Callable[[], float] = time.monotonic
    state: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = self.clock()
        if self.saved is not None and (self.saved / self._file.name).is_file() and not self._file.is_file():
            shutil.copytree(self.saved, self.folder, dirs_exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}

    @property
    def _file(self) -> Path:
        return self.folder / "state.json"

    @property
    def left(self) -> float:
        """Seconds left of this call."""
        return self.seconds - (self.clock() - self._began)

    def forget(self) -> None:
        """Begin anew; results are written over, not taken away."""
        self.state.clear()
        write_text(self._file, "{}\n")

    def status(self, step: Step) -> str:
        """``done``, ``failed``, ``begun`` (and not ended: the call was cut off) or nothing."""
        return self.state.get(step.name, {}).get("status", "")

    def run(self, steps: Sequence[Step], again: bool = False) -> list[str]:
        """Run what is open, each step if all of its time is left; returns a line for every step.

        A step that failed, or was cut off, is tried once more only if ``again`` asks for it. Building is an exception:
        it is done again where the sources have changed, or the extension is not there any more.
        """
        lines = []
        for step in steps:
            status = self.status(step)
            if step.name == BUILD and status == DONE and not self._built():
                status = ""
            if status and not (again and status != DONE):
                lines.append(f"{status:8} before: {step.name}")
            elif self.left < step.seconds:
                lines.append(f"{'open':8} {step.name}: {step.seconds} s may be needed, the next call begins with it")
            else:
                lines.append(self._run(step))
        return lines

    def _run(self, step: Step) -> str:
        print(f"== {step.name}", flush=True)
        self._write(step, BEGUN, 0.0, None)
        began = self.clock()
        try:
            code: int | None = subprocess.run(
                step.command, cwd=ROOT, env=os.environ | step.environment, timeout=step.seconds, check=False
            ).returncode
        except (subprocess.TimeoutExpired, OSError) as error:
            print(f"{step.name}: {error}", flush=True)
            code = None
        status, seconds = DONE if code == 0 else FAILED, self.clock() - began
        self._write(step, status, seconds, code)
        return f"{status:8} {step.name} ({seconds:.0f} s{'' if code == 0 else f', exit status {code}'})"

    def _write(self, step: Step, status: str, seconds: float, code: int | None) -> None:
        self.state[step.name] = {"status": status, "seconds": round(seconds, 1), "code": code, "sources": _sources()}
        write_text(self._file, json.dumps(self.state, indent=1) + "\n")
        if self.saved is not None:
            shutil.copytree(self.folder, self.saved, dirs_exist_ok=True)
        if self.archive is not None:
            with tarfile.open(self.archive, "w:gz") as archive:
                archive.add(self.folder, self.folder.name)

    def _built(self) -> bool:
        """Whether the extension of these sources is there."""
        found = any((ROOT / "hyperloader").glob("_C*.so"))
        return found and self.state[BUILD]["sources"] == _sources()


def _sources() -> str:
    """A digest of everything that the extension is compiled from."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "csrc").rglob("*.*"), ROOT / "setup.py", *(ROOT / "hyperloader/ops").glob("*.inc")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
