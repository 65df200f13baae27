"""A client that sends when its clock says so, whether or not earlier requests have been answered."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_HEAD = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@dataclass
class Sent:
    """One request: which body, when it was to be sent, how long its answer took; status 0 where there was none."""

    body: int
    due: float
    seconds: float = 0.0
    status: int = 0
    answer: bytes = b""


@dataclass
class Connections:
    """Connections to one port, used again; a request on one that was closed is sent once more on a new one."""

    port: int
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; raises ``OSError`` where nobody listens."""
        while True:
            used = bool(self.free)
            reader, writer = self.free.pop() if used else await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(_HEAD.format(len(body)).encode() + body)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
                answer = await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                if used:
                    continue
                raise ConnectionResetError from None
            self.free.append((reader, writer))
            return int(head.split(" ", 2)[1]), answer

    def close(self) -> None:
        """Close what is open."""
        for _, writer in self.free:
            writer.close()


async def _one(connections: Connections, bodies: Sequence[bytes], sent: Sent, retry: bool) -> None:
    while True:
        try:
            sent.status, sent.answer = await connections.post(bodies[sent.body])
        except OSError:
            sent.status = 0
        if not retry or sent.status not in (0, 429, 503):
            break
        await asyncio.sleep(0.1)
    sent.seconds = time.perf_counter() - sent.due


async def open_loop(
    port: int, bodies: Sequence[bytes], rate: float, seconds: float, *, seed: int = 0, retry: bool = False,
    each_second: Callable[[], None] = lambda: None,
) -> list[Sent]:  # fmt: skip
    """Requests at random times, ``rate`` a second on average, as independent users send them.

    Latencies count from when a request was due: a client that is late makes the server look slower, not faster. With
    ``retry`` a refusal and a lost connection are sent again.
    """
    connections, times = Connections(port), random.Random(seed)
    tasks, found, due, begin, tick = [], list[Sent](), 0.0, time.perf_counter(), 0
    while (due := due + times.expovariate(rate)) < seconds:
        if (wait := begin + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        sent = Sent(times.randrange(len(bodies)), begin + due)
        found.append(sent)
        tasks.append(asyncio.create_task(_one(connections, bodies, sent, retry)))
        if due > tick:
            each_second()
            tick += 1
    await asyncio.gather(*tasks)
    connections.close()
    return found


async def closed_loop(port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> list[Sent]:
    """``clients`` that send the next request when the last has been answered: the most that a server answers."""
    connections, found, end = Connections(port), list[Sent](), time.perf_counter() + seconds
    numbers = random.Random(1)

    async def client() -> None:
        while time.perf_counter() < end:
            sent = Sent(numbers.randrange(len(bodies)), time.perf_counter())
            await _one(connections, bodies, sent, False)
            found.append(sent)

    await asyncio.gather(*(client() for _ in range(clients)))
    connections.close()
    return found
