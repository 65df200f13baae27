"""Around every request: who may ask, what a refusal looks like, the log and the counters."""

import hmac
import secrets
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperloader.serving.logs import log
from hyperloader.serving.metrics import Metrics
from hyperloader.serving.refusals import Refusal, internal, too_large
from hyperloader.serving.settings import Settings, is_loopback

OPEN = ("/", "/healthz", "/readyz")  # paths that need no key
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """The application behind its checks; whatever it raises is answered without details, and logged."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, start, status = secrets.token_hex(8), time.perf_counter(), 0
        scope["state"] = {**scope.get("state", {}), "fields": {}}
        # HEAD is answered as GET; uvicorn leaves its body out
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS, (b"x-request-id", request.encode())]
            await send(message)

        try:
            self._check(scope)
            await self.app(inner, receive, sending)
        except Refusal as refusal:
            await refusal.response()(scope, receive, sending)
        except Exception as error:
            log("error", 40, error=error, request=request)
            if not status:
                await internal().response()(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(inner.get("route"), "path", "other")
            self.metrics.request(route, status, seconds)
            fields: dict[str, Any] = scope["state"]["fields"]
            log(
                "request", request=request, method=scope["method"], route=route, status=status,
                ms=round(1000 * seconds, 2), **fields,
            )  # fmt: skip

    def _check(self, scope: Scope) -> None:
        headers, settings = Headers(scope=scope), self.settings
        if settings.is_local and settings.api_key is None and not is_loopback(_name(headers.get("host", ""))):
            # a page of the web that has its own name resolved to this machine
            raise Refusal(403, "forbidden", "the Host must be this machine's, as localhost")
        if settings.api_key is not None and scope["path"] not in OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1", "replace")
            if not hmac.compare_digest(given, settings.api_key.encode()):
                raise Refusal(
                    401, "unauthorized", "the header Authorization must be: Bearer, and the API key",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":  # which a page of another site may not send
                raise Refusal(415, "unsupported", "the header Content-Type must be application/json")
            if headers.get("content-encoding", "identity").strip().lower() != "identity":
                raise Refusal(415, "unsupported", "the body must not be compressed: no header Content-Encoding")
            length = headers.get("content-length", "0")
            if length.isdecimal() and int(length) > settings.max_body_bytes:
                raise too_large(settings.max_body_bytes)


def _name(host: str) -> str:
    """``name`` or ``[address]`` without the port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
