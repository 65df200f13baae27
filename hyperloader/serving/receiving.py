"""Bodies within limits of size and time, and clients that leave."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from hyperloader.serving.refusals import Refusal, too_large


async def body_of(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body.

    Raises:
        Refusal: more bytes than ``limit`` (413), not there after so many seconds (408), a client that has left (400).
    """
    try:
        return await asyncio.wait_for(_read(request, limit), seconds)
    except (asyncio.TimeoutError, TimeoutError):
        message = f"the body must arrive within {seconds:g} s"
        raise Refusal(408, "timeout", message, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(400, "gone", "the client has left") from None


async def _read(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def disconnected(request: Request) -> None:
    """Return when the client, whose body has been read, has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
