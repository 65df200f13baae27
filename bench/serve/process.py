"""A server as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class ServerProcess:
    """`hyperloader serve FOLDER` with ``options``, from when it listens to ``stop``."""

    def __init__(self, folder: Path, log: Path, *options: str, port: int = 0) -> None:
        words = [sys.executable, "-m", "hyperloader.cli", "serve", str(folder), "--port", str(port), *options]
        self._log = log.open("a", encoding="utf-8")
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
        said = []
        for line in self.process.stderr or ():
            said.append(line)
            if '"listening"' in line:
                break
        else:
            raise RuntimeError(f"the server did not start: {''.join(said)}")
        self.port = int(json.loads(said[-1])["url"].rpartition(":")[2])
        self._drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=self._log)

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; the exit status."""
        self.process.send_signal(number)
        status = self.process.wait()
        self._drain.wait()
        self._log.close()
        return status
