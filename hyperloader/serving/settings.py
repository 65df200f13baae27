"""What a server takes, and how long it waits."""

import ipaddress
from dataclasses import dataclass

from hyperloader.validation import check_positive, check_whole

API_KEY = "HYPERLOADER_API_KEY"  # environment variable
WEIGHT = 400  # characters of a text that count as one more input


@dataclass(frozen=True)
class Settings:
    """Limits of a server.

    host, port: where it listens. api_key: what requests must bring, None for none. max_body_bytes: of a request.
    max_inputs: inputs times tasks of a request; max_queue: of all requests that wait; a long text counts once more for
    every ``WEIGHT`` characters. timeout_s: for an answer; body_timeout_s: for a request to arrive. drain_s: how long
    connections are taken after SIGTERM, for a load balancer to notice. max_batch_tokens: of a batch, padding included,
    None for what suits the device. max_wait_ms: how long an input waits for others to fill its batch while nothing is
    computed. mixed: False computes batches of one task alone, for comparison.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_body_bytes: int = 1 << 20
    max_inputs: int = 1024
    max_queue: int = 4096
    timeout_s: float = 30.0
    body_timeout_s: float = 10.0
    drain_s: float = 0.0
    max_batch_tokens: int | None = None
    max_wait_ms: float = 2.0
    mixed: bool = True

    def __post_init__(self) -> None:
        check_whole("port", self.port, 0, 65535)
        key = self.api_key
        if key is not None and (not key or key.strip() != key or not key.isprintable()):
            raise ValueError(
                f"{API_KEY} must be text that a header can bring: printable, without white space around it"
            )
        for name in ("max_body_bytes", "max_inputs", "max_queue"):
            check_whole(name, getattr(self, name))
        if self.max_batch_tokens is not None:
            check_whole("max_batch_tokens", self.max_batch_tokens)
        for name in ("timeout_s", "body_timeout_s"):
            check_positive(name, getattr(self, name))
        for name, most in (("max_wait_ms", 60_000), ("drain_s", 600)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from 0 to {most}, got {getattr(self, name)}")
        if self.max_inputs > self.max_queue:
            raise ValueError(f"max_inputs must be at most max_queue, {self.max_queue}, got {self.max_inputs}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
