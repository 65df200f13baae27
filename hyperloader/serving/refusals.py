"""Answers that are none: a status, a code for programs and a sentence for people; no path and no traceback."""

import json

from starlette.responses import Response


class Refusal(Exception):
    """An answer with a status of 400 or more."""

    def __init__(
        self, status: int, code: str, message: str, *, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.status, self.headers = status, headers or {}
        self.body = {"code": code, "message": message} | ({"field": field} if field else {})

    def response(self) -> Response:
        """``{"error": {"code": ..., "message": ..., "field": ...}}``."""
        content = json.dumps({"error": self.body})
        return Response(content, self.status, headers=self.headers, media_type="application/json")


def too_large(limit: int) -> Refusal:
    """For a body of more than ``limit`` bytes. The rest of it is read and forgotten, so that a client that sends sees
    the answer, and not a broken connection."""
    return Refusal(413, "too_large", f"the body must have at most {limit:,} bytes")


def busy(seconds: int) -> Refusal:
    """For a full queue."""
    message = f"the queue is full; try again in {seconds} s"
    return Refusal(429, "busy", message, headers={"Retry-After": str(seconds)})


def internal() -> Refusal:
    """For an error of ours."""
    return Refusal(500, "internal", "internal error; the log has more under the X-Request-Id of this answer")
