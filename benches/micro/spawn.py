"""Start ``size`` of them at a time, each doing nothing: time to start, run and finish one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from harness import main, peer, per_operation

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing() -> None:
    """The work."""


@peer("lissom")
def lissom_(size: int, seconds: float) -> dict[str, float]:
    """``lissom.spawn`` and ``lissom.run``."""
    import lissom

    def run(count: int) -> int:
        batches = max(1, count // size)
        for _ in range(batches):
            for _ in range(size):
                lissom.spawn(nothing)
            lissom.run()
        return batches * size

    return per_operation(run, seconds, start=size)


@peer("greenlet")
def greenlet_(size: int, seconds: float) -> dict[str, float]:
    """Make a greenlet and switch to it; it returns here when it ends."""
    import greenlet

    def run(count: int) -> int:
        for _ in range(count):
            greenlet.greenlet(nothing).switch()
        return count

    return per_operation(run, seconds, start=size)


@peer("gevent")
def gevent_(size: int, seconds: float) -> dict[str, float]:
    """``gevent.spawn`` and ``gevent.joinall``."""
    import gevent

    def run(count: int) -> int:
        batches = max(1, count // size)
        for _ in range(batches):
            gevent.joinall([gevent.spawn(nothing) for _ in range(size)])
        return batches * size

    return per_operation(run, seconds, start=size)


def _asyncio(size: int, seconds: float, runner: Callable[[Any], object]) -> dict[str, float]:
    import asyncio

    async def work() -> None:
        pass

    async def all_of_them(batches: int) -> None:
        for _ in range(batches):
            tasks = [asyncio.create_task(work()) for _ in range(size)]
            for task in tasks:
                await task

    def run(count: int) -> int:
        batches = max(1, count // size)
        runner(all_of_them(batches))
        return batches * size

    return per_operation(run, seconds, start=size)


@peer("asyncio")
def asyncio_(size: int, seconds: float) -> dict[str, float]:
    """``asyncio.create_task``, and ``await`` for each."""
    import asyncio

    return _asyncio(size, seconds, asyncio.run)


@peer("uvloop")
def uvloop_(size: int, seconds: float) -> dict[str, float]:
    """``asyncio.create_task`` on uvloop."""
    import uvloop

    return _asyncio(size, seconds, uvloop.run)


@peer("threads")
def threads(size: int, seconds: float) -> dict[str, float]:
    """Start and join OS threads."""

    def run(count: int) -> int:
        batches = max(1, count // size)
        for _ in range(batches):
            running = [threading.Thread(target=nothing) for _ in range(size)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
        return batches * size

    return per_operation(run, seconds, start=size)


if __name__ == "__main__":
    main()
