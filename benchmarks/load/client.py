"""A separate process that sends requests as fast as a number of clients can: `python -m benchmarks.load.client`."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import httpx


async def hammer(request: dict[str, Any], clients: int, seconds: float) -> list[float]:
    """Seconds each request took; any answer except a success ends the run."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def one(session: httpx.AsyncClient) -> None:
        while (begin := time.perf_counter()) < end:
            answer = await session.request(**request)
            answer.raise_for_status()
            took.append(time.perf_counter() - begin)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=60) as session:
        await asyncio.gather(*(one(session) for _ in range(clients)))
    return took


async def watch(url: str, watchers: int, end_of: str) -> list[float]:
    """Opens event streams of one job; when all are open, sends `end_of` (a POST) and returns after how many seconds
    each stream received the job's end.

    Plain sockets: a pool of a thousand connections would take longer over them than the service.
    """
    parts = urlsplit(url)
    asked = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode()
    opened, seconds_to_end = asyncio.Event(), []
    waiting = watchers
    begin = 0.0

    async def one() -> None:
        nonlocal waiting
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(asked)
        await reader.readuntil(b"event: queued")
        waiting -= 1
        if not waiting:
            opened.set()
        await reader.readuntil(b"event: cancelled")
        seconds_to_end.append(time.perf_counter() - begin)
        writer.close()

    tasks = [asyncio.create_task(one()) for _ in range(watchers)]
    await opened.wait()
    await asyncio.sleep(2)
    begin = time.perf_counter()
    async with httpx.AsyncClient() as session:
        (await session.post(end_of)).raise_for_status()
    await asyncio.gather(*tasks)
    return seconds_to_end


ORDERS: dict[str, Callable[..., Coroutine[Any, Any, list[float]]]] = {"hammer": hammer, "watch": watch}


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    print(json.dumps(asyncio.run(ORDERS[order.pop("do")](**order))))
