"""Echo servers, one function for each peer: ``python echo_server.py PEER`` prints its port and serves.

Each is written as its documentation recommends for this work. All listen with the same queue, set
TCP_NODELAY (asyncio and uvloop do so by themselves), read up to 64 KiB and use one thread if they can.
"""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 4096
ROOM = 65536
NOT_INSTALLED = 3


def listen() -> socket.socket:
    """Listen on a free port of 127.0.0.1 and print it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    print(listener.getsockname()[1], flush=True)
    return listener


def echo(sock: socket.socket) -> None:
    """Send back what comes until the client closes: the plain loop of lissom, threads and gevent."""
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(ROOM):
            sock.sendall(data)


def serve_threads() -> None:
    """A thread for each connection."""
    listener = listen()
    while True:
        client, _ = listener.accept()
        threading.Thread(target=echo, args=(client,), daemon=True).start()


def serve_lissom() -> None:
    """The same program; its threads are tasklets."""
    import lissom

    lissom.hook(threads=True)
    serve_threads()


def serve_lissom_spawn() -> None:
    """A tasklet for each connection, without the ``Thread`` object."""
    import lissom

    lissom.hook()
    listener = listen()
    while True:
        client, _ = listener.accept()
        lissom.spawn(echo, client)


def serve_gevent() -> None:
    """``gevent.server.StreamServer``, a greenlet for each connection."""
    import gevent.server
    import gevent.socket

    server = gevent.server.StreamServer(("127.0.0.1", 0), lambda sock, _: echo(sock), backlog=BACKLOG)
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()


async def _streams() -> None:
    import asyncio

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(ROOM):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, sock=listen(), backlog=BACKLOG)
    await server.serve_forever()


async def _protocol() -> None:
    import asyncio

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            # A Transport in all but name: uvloop's does not inherit from asyncio's.
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

        # Back-pressure, which the plain loops have: no reading while the client does not read.
        def pause_writing(self) -> None:
            self.transport.pause_reading()

        def resume_writing(self) -> None:
            self.transport.resume_reading()

    server = await asyncio.get_running_loop().create_server(Echo, sock=listen(), backlog=BACKLOG)
    await server.serve_forever()


def serve_asyncio_streams() -> None:
    """asyncio streams, a task for each connection."""
    import asyncio

    asyncio.run(_streams())


def serve_asyncio_protocol() -> None:
    """An asyncio ``Protocol``: callbacks."""
    import asyncio

    asyncio.run(_protocol())


def serve_uvloop_streams() -> None:
    """asyncio streams on uvloop."""
    import uvloop

    uvloop.run(_streams())


def serve_uvloop_protocol() -> None:
    """A ``Protocol`` on uvloop: callbacks."""
    import uvloop

    uvloop.run(_protocol())


SERVERS: dict[str, Callable[[], Any]] = {
    name.removeprefix("serve_").replace("_", "-"): function
    for name, function in list(globals().items())
    if name.startswith("serve_")
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SERVERS:
        sys.exit(f"usage: echo_server.py {' | '.join(SERVERS)}")
    try:
        SERVERS[sys.argv[1]]()
    except ModuleNotFoundError as error:
        print(f"not installed: {error.name}", file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    except KeyboardInterrupt:
        pass
