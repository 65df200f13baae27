"""Structured logs of a server: one JSON object a line, and never a text that was sent."""

import json
import logging
import sys
import traceback
from datetime import datetime, timezone

LOGGER = logging.getLogger("hyperloader.serve")


class _JsonLines(logging.Formatter):
    """``time``, ``level``, ``event`` and the fields of ``extra={"fields": ...}``.

    Of an exception its type and where it was raised: its message may hold what was sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        found = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            found["error"] = type(record.exc_info[1]).__name__
            found["at"] = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        return json.dumps(found, ensure_ascii=False)


def log_to_stderr() -> None:
    """Write the server's logs to stderr; for the command, whose process is the server's own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    LOGGER.handlers[:], LOGGER.propagate = [handler], False
    LOGGER.setLevel(logging.INFO)


def log(event: str, level: int = logging.INFO, *, error: BaseException | None = None, **fields: object) -> None:
    """Log what happened."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=error)
