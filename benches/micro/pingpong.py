"""Send a byte over a socket pair and get one back: time for one round trip between two of them."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

from harness import main, peer, per_operation

if TYPE_CHECKING:
    from collections.abc import Callable


def answer(sock: socket.socket, count: int) -> None:
    """Answer ``count`` bytes."""
    for _ in range(count):
        sock.recv(1)
        sock.send(b"x")


def ask(sock: socket.socket, count: int) -> None:
    """Send ``count`` bytes, each after the answer to the last."""
    for _ in range(count):
        sock.send(b"x")
        sock.recv(1)


@peer("lissom")
def lissom_(_size: int, seconds: float) -> dict[str, float]:
    """The stdlib's blocking sockets, hooked, in two tasklets."""
    import lissom

    lissom.hook()

    def run(count: int) -> int:
        here, there = socket.socketpair()
        with here, there:
            lissom.spawn(answer, there, count)
            lissom.spawn(ask, here, count)
            lissom.run()
        return count

    return per_operation(run, seconds)


@peer("gevent")
def gevent_(_size: int, seconds: float) -> dict[str, float]:
    """``gevent.socket``."""
    import gevent
    import gevent.socket

    def run(count: int) -> int:
        here, there = gevent.socket.socketpair()
        with here, there:
            gevent.joinall([gevent.spawn(answer, there, count), gevent.spawn(ask, here, count)])
        return count

    return per_operation(run, seconds)


def _asyncio(seconds: float, runner: Callable[[Any], object]) -> dict[str, float]:
    import asyncio

    async def exchange(count: int) -> None:
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        far_reader, far_writer = await asyncio.open_connection(sock=there)

        async def far() -> None:
            for _ in range(count):
                await far_reader.read(1)
                far_writer.write(b"x")

        task = asyncio.create_task(far())
        for _ in range(count):
            writer.write(b"x")
            await reader.read(1)
        await task
        for one in (writer, far_writer):
            one.close()

    def run(count: int) -> int:
        runner(exchange(count))
        return count

    return per_operation(run, seconds)


@peer("asyncio")
def asyncio_(_size: int, seconds: float) -> dict[str, float]:
    """asyncio streams."""
    import asyncio

    return _asyncio(seconds, asyncio.run)


@peer("uvloop")
def uvloop_(_size: int, seconds: float) -> dict[str, float]:
    """asyncio streams on uvloop."""
    import uvloop

    return _asyncio(seconds, uvloop.run)


@peer("threads")
def threads(_size: int, seconds: float) -> dict[str, float]:
    """Blocking sockets in two OS threads."""

    def run(count: int) -> int:
        here, there = socket.socketpair()
        with here, there:
            other = threading.Thread(target=answer, args=(there, count))
            other.start()
            ask(here, count)
            other.join()
        return count

    return per_operation(run, seconds)


if __name__ == "__main__":
    main()
