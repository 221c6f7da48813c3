"""Park ``size`` of them, each in a simple function: resident memory and page tables for each."""

from __future__ import annotations

import os
import threading

from harness import main, memory, peer


def each(before: int, after: int, size: int) -> dict[str, float]:
    """The figures of this case."""
    return {"bytes": (after - before) / size, "parked": size}


@peer("lissom")
def lissom_(size: int, _seconds: float) -> dict[str, float]:
    """Tasklets that wait for a message."""
    import lissom

    channel = lissom.channel()

    def park() -> None:
        channel.receive()

    before = memory()
    parked = [lissom.spawn(park) for _ in range(size)]
    lissom.schedule()
    after = memory()
    assert channel.balance == -len(parked), "not all are parked"
    leave(each(before, after, size))
    return {}


@peer("greenlet")
def greenlet_(size: int, _seconds: float) -> dict[str, float]:
    """Greenlets that have switched back to the main one."""
    import greenlet

    back = greenlet.getcurrent().switch

    def park() -> None:
        back()

    before = memory()
    parked = [greenlet.greenlet(park) for _ in range(size)]
    for one in parked:
        one.switch()
    leave(each(before, memory(), size))
    return {}


@peer("gevent")
def gevent_(size: int, _seconds: float) -> dict[str, float]:
    """Greenlets that wait for an event."""
    import gevent
    import gevent.event

    event = gevent.event.Event()

    def park() -> None:
        event.wait()

    before = memory()
    parked = [gevent.spawn(park) for _ in range(size)]
    gevent.sleep(0)
    gevent.sleep(0)
    assert all(one.started for one in parked)
    leave(each(before, memory(), size))
    return {}


@peer("asyncio")
def asyncio_(size: int, _seconds: float) -> dict[str, float]:
    """Tasks that wait for an event."""
    import asyncio

    async def measure() -> None:
        event = asyncio.Event()

        async def park() -> None:
            await event.wait()

        before = memory()
        parked = [asyncio.create_task(park()) for _ in range(size)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        after = memory()
        leave(each(before, after, len(parked)))

    asyncio.run(measure())
    return {}


@peer("threads")
def threads(size: int, _seconds: float) -> dict[str, float]:
    """OS threads that wait for a lock; their kernel stacks (16 KiB each) are not in the figure."""
    lock = threading.Lock()
    lock.acquire()

    def park() -> None:
        lock.acquire()

    before = memory()
    for _ in range(size):
        threading.Thread(target=park, daemon=True).start()
    leave(each(before, memory(), size))
    return {}


def leave(figures: dict[str, float]) -> None:
    """Print the figures and end the process without unwinding what is parked."""
    import json

    print(json.dumps(figures), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
