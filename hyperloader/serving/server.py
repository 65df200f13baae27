"""The process that serves: its socket and its signals."""

import asyncio
import errno
import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from hyperloader.serving.app import make_app
from hyperloader.serving.logs import log, log_to_stderr
from hyperloader.serving.refusals import Refusal
from hyperloader.serving.registry import Registry
from hyperloader.serving.service import Service
from hyperloader.serving.settings import Settings

_SWITCH_S = (
    2e-4  # the model's thread asks for the interpreter after each operator: others give it up sooner than by default
)
_IDLE_S = 30  # that a connection may be without a request
_READ_S = 5  # that clients have at the end to read the last answers


class Server(uvicorn.Server):
    """Ends in order at SIGTERM and Ctrl-C, after ``drain_s`` seconds in which it is not ready, when what has been
    accepted is answered; at once when it comes again. SIGHUP loads new versions of all runs."""

    service: Service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While it serves."""
        loop, reloads = asyncio.get_running_loop(), set[asyncio.Task]()

        def close() -> None:
            self.should_exit = True

        def end() -> None:
            log("draining", waiting=self.service.waiting)
            self.force_exit, self.service.draining = self.service.draining, True
            loop.call_later(0 if self.force_exit else self.service.settings.drain_s, close)

        def reload() -> None:
            task = loop.create_task(self._reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where, as soon as requests and signals are taken."""
        await super().startup(sockets=sockets)
        host, port = (sockets or self.servers[0].sockets)[0].getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log("listening", url=url, tasks=len(self.service.registry.tasks))

    async def _reload(self) -> None:
        try:
            await self.service.reload(list(self.service.registry.runs))
        except Refusal:
            return  # has been logged


def listen(settings: Settings) -> socket.socket:
    """A socket that listens. Raises ``ValueError`` for a port in use, or an address that is not this machine's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port must be free, got {settings.port}, where another process listens; choose one with --port"
            raise ValueError(message) from None
        if error.errno == errno.EACCES:
            raise ValueError(f"port must be one that this user may use, got {settings.port}") from None
        raise ValueError(f"host must be an address of this machine, got {settings.host} ({error})") from None


def config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How it speaks HTTP, and how long its end may take."""
    quiet: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False}
    end = math.ceil(settings.body_timeout_s + settings.timeout_s + _READ_S)
    return uvicorn.Config(
        app, lifespan="on", timeout_keep_alive=_IDLE_S, timeout_graceful_shutdown=end, ws="none", **quiet
    )


def serve(registry: Registry, settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    log_to_stderr()
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    sys.setswitchinterval(_SWITCH_S)
    service = Service(registry, settings)
    app = make_app(service)
    server = Server(config(app, settings))
    server.service = service
    server.run(sockets=[listener])
    log("ended")
