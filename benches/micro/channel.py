"""Hand messages from one to another: time for one message, one way."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

from harness import main, peer, per_operation

if TYPE_CHECKING:
    from collections.abc import Callable


@peer("lissom")
def lissom_(_size: int, seconds: float) -> dict[str, float]:
    """A channel between two tasklets."""
    import lissom

    def run(count: int) -> int:
        channel = lissom.channel()

        def send() -> None:
            give = channel.send
            for number in range(count):
                give(number)

        def receive() -> None:
            take = channel.receive
            for _ in range(count):
                take()

        lissom.spawn(receive)
        lissom.spawn(send)
        lissom.run()
        return count

    return per_operation(run, seconds)


@peer("gevent")
def gevent_(_size: int, seconds: float) -> dict[str, float]:
    """``gevent.queue.Channel``, a rendezvous too."""
    import gevent
    import gevent.queue

    def run(count: int) -> int:
        channel = gevent.queue.Channel()

        def send() -> None:
            for number in range(count):
                channel.put(number)

        def receive() -> None:
            for _ in range(count):
                channel.get()

        gevent.joinall([gevent.spawn(receive), gevent.spawn(send)])
        return count

    return per_operation(run, seconds)


def _asyncio(seconds: float, runner: Callable[[Any], object]) -> dict[str, float]:
    import asyncio

    async def exchange(count: int) -> None:
        channel: asyncio.Queue[int] = asyncio.Queue(1)

        async def send() -> None:
            for number in range(count):
                await channel.put(number)

        async def receive() -> None:
            for _ in range(count):
                await channel.get()

        await asyncio.gather(send(), receive())

    def run(count: int) -> int:
        runner(exchange(count))
        return count

    return per_operation(run, seconds)


@peer("asyncio")
def asyncio_(_size: int, seconds: float) -> dict[str, float]:
    """``asyncio.Queue`` for one message."""
    import asyncio

    return _asyncio(seconds, asyncio.run)


@peer("uvloop")
def uvloop_(_size: int, seconds: float) -> dict[str, float]:
    """``asyncio.Queue`` for one message, on uvloop."""
    import uvloop

    return _asyncio(seconds, uvloop.run)


@peer("threads")
def threads(_size: int, seconds: float) -> dict[str, float]:
    """``queue.Queue`` for one message, between two OS threads."""

    def run(count: int) -> int:
        channel: queue.Queue[int] = queue.Queue(1)

        def send() -> None:
            for number in range(count):
                channel.put(number)

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(count):
            channel.get()
        sender.join()
        return count

    return per_operation(run, seconds)


if __name__ == "__main__":
    main()
