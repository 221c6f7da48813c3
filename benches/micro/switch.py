"""Pass the processor round ``size`` of them: time for one hop from one to the next."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from harness import main, peer, per_operation

if TYPE_CHECKING:
    from collections.abc import Callable


@peer("lissom")
def lissom_(size: int, seconds: float) -> dict[str, float]:
    """``lissom.schedule()`` in a loop in every tasklet."""
    import lissom

    def run(count: int) -> int:
        rounds = max(1, count // size)

        def work() -> None:
            schedule = lissom.schedule
            for _ in range(rounds):
                schedule()

        for _ in range(size):
            lissom.spawn(work)
        lissom.run()
        return rounds * size

    return per_operation(run, seconds, start=10 * size)


@peer("greenlet")
def greenlet_(size: int, seconds: float) -> dict[str, float]:
    """A ring in which each switches to the next directly, without a hub: its cheapest form."""
    import greenlet

    back = greenlet.getcurrent().switch

    def run(count: int) -> int:
        rounds = max(1, count // size)
        ring: list[greenlet.greenlet] = []

        def work(index: int) -> None:
            switch = ring[(index + 1) % size].switch
            # Started one by one from here, not each within the one before: that would nest too deep.
            back()
            for _ in range(rounds):
                switch()

        ring.extend(greenlet.greenlet(work) for _ in range(size))
        for index, one in enumerate(ring):
            one.switch(index)
        # Each returns here when it is done with its rounds.
        for one in ring:
            one.switch()
        return rounds * size

    return per_operation(run, seconds, start=10 * size)


@peer("gevent")
def gevent_(size: int, seconds: float) -> dict[str, float]:
    """``gevent.sleep(0)``, its form of ``schedule()``."""
    import gevent

    def run(count: int) -> int:
        rounds = max(1, count // size)

        def work() -> None:
            sleep = gevent.sleep
            for _ in range(rounds):
                sleep(0)

        gevent.joinall([gevent.spawn(work) for _ in range(size)])
        return rounds * size

    return per_operation(run, seconds, start=10 * size)


def _asyncio(size: int, seconds: float, runner: Callable[[Any], object]) -> dict[str, float]:
    import asyncio

    async def work(rounds: int) -> None:
        sleep = asyncio.sleep
        for _ in range(rounds):
            await sleep(0)

    async def all_of_them(rounds: int) -> None:
        await asyncio.gather(*(work(rounds) for _ in range(size)))

    def run(count: int) -> int:
        rounds = max(1, count // size)
        runner(all_of_them(rounds))
        return rounds * size

    return per_operation(run, seconds, start=10 * size)


@peer("asyncio")
def asyncio_(size: int, seconds: float) -> dict[str, float]:
    """``asyncio.sleep(0)``."""
    import asyncio

    return _asyncio(size, seconds, asyncio.run)


@peer("uvloop")
def uvloop_(size: int, seconds: float) -> dict[str, float]:
    """``asyncio.sleep(0)`` on uvloop."""
    import uvloop

    return _asyncio(size, seconds, uvloop.run)


@peer("threads")
def threads(size: int, seconds: float) -> dict[str, float]:
    """A ring of OS threads, each released by the lock that the one before it opens."""

    def run(count: int) -> int:
        rounds = max(1, count // size)
        locks = [threading.Lock() for _ in range(size)]
        for lock in locks:
            lock.acquire()

        def work(index: int) -> None:
            acquire, release = locks[index].acquire, locks[(index + 1) % size].release
            for _ in range(rounds):
                acquire()
                release()

        ring = [threading.Thread(target=work, args=(index,)) for index in range(size)]
        for thread in ring:
            thread.start()
        locks[0].release()
        for thread in ring:
            thread.join()
        return rounds * size

    return per_operation(run, seconds, start=2 * size)


if __name__ == "__main__":
    main()
