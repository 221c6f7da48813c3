"""Receive with a timeout that never comes: what it adds to a receive that has to wait.

The round trips of pingpong.py with and without a timeout at both ends, in turn; the figure is the median of the
differences, for one of the two waits of a round trip.
"""

from __future__ import annotations

import socket
import statistics
import time
from typing import TYPE_CHECKING, Any

from harness import main, peer
from pingpong import answer, ask

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS = 9
LIMIT = 60.0


def difference(run: Callable[[int, float | None], object], seconds: float) -> dict[str, float]:
    """Return what `run(count, LIMIT)` takes more than `run(count, None)`, for each wait."""
    count, spent = 500, 0.0
    while spent < seconds / PAIRS / 4:
        count *= 2
        spent = cpu(run, count, None)
    found = []
    for number in range(PAIRS):
        # Who is first changes: a machine that gets slower favours nobody.
        order = (LIMIT, None) if number % 2 else (None, LIMIT)
        times = {limit: cpu(run, count, limit) for limit in order}
        found.append((times[LIMIT] - times[None]) / count / 2 * 1e9)
    return {"cpu_ns": statistics.median(found), "operations": count}


def cpu(run: Callable[[int, float | None], object], count: int, limit: float | None) -> float:
    """Return the CPU time of a run, in seconds."""
    before = time.process_time()
    run(count, limit)
    return time.process_time() - before


@peer("lissom")
def lissom_(_size: int, seconds: float) -> dict[str, float]:
    """``socket.settimeout``."""
    import lissom

    lissom.hook()

    def run(count: int, limit: float | None) -> None:
        here, there = socket.socketpair()
        with here, there:
            here.settimeout(limit)
            there.settimeout(limit)
            lissom.spawn(answer, there, count)
            lissom.spawn(ask, here, count)
            lissom.run()

    return difference(run, seconds)


@peer("gevent")
def gevent_(_size: int, seconds: float) -> dict[str, float]:
    """``settimeout`` of ``gevent.socket``."""
    import gevent
    import gevent.socket

    def run(count: int, limit: float | None) -> None:
        here, there = gevent.socket.socketpair()
        with here, there:
            here.settimeout(limit)
            there.settimeout(limit)
            gevent.joinall([gevent.spawn(answer, there, count), gevent.spawn(ask, here, count)])

    return difference(run, seconds)


def _asyncio(seconds: float, runner: Callable[[Any], object]) -> dict[str, float]:
    import asyncio

    async def receive(reader: asyncio.StreamReader, limit: float | None) -> None:
        if limit is None:
            await reader.read(1)
        else:
            async with asyncio.timeout(limit):
                await reader.read(1)

    async def exchange(count: int, limit: float | None) -> None:
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        far_reader, far_writer = await asyncio.open_connection(sock=there)

        async def far() -> None:
            for _ in range(count):
                await receive(far_reader, limit)
                far_writer.write(b"x")

        task = asyncio.create_task(far())
        for _ in range(count):
            writer.write(b"x")
            await receive(reader, limit)
        await task
        for one in (writer, far_writer):
            one.close()

    return difference(lambda count, limit: runner(exchange(count, limit)), seconds)


@peer("asyncio")
def asyncio_(_size: int, seconds: float) -> dict[str, float]:
    """``asyncio.timeout``."""
    import asyncio

    return _asyncio(seconds, asyncio.run)


@peer("uvloop")
def uvloop_(_size: int, seconds: float) -> dict[str, float]:
    """``asyncio.timeout`` on uvloop."""
    import uvloop

    return _asyncio(seconds, uvloop.run)


if __name__ == "__main__":
    main()
