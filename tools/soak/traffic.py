"""What goes over one connection of the soak, at both ends: plain blocking code on the standard library's sockets.

A connection begins with a header: the kind of traffic, a seed and a size. Both ends make the same bytes of the seed, so
each can check all that it receives: nothing lost, nothing twice, nothing changed, nothing from another connection.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER = struct.Struct("!BQI")
COUNT = struct.Struct("!I")
READY, DONE = b"R", b"D"
# Longer than any wait of a healthy run.
PATIENCE = 60.0

# What has happened in this process: a timeout that never comes tests nothing.
EVENTS: Counter[str] = Counter()


class Damage(Exception):
    """What was received is not what was sent."""


@dataclass(frozen=True)
class Order:
    """What a connection is to do."""

    kind: str
    seed: int
    size: int

    def data(self) -> bytes:
        """Return the bytes that go over it."""
        return random.Random(self.seed).randbytes(self.size)

    def pack(self) -> bytes:
        """Return the header."""
        return HEADER.pack(KINDS.index(self.kind), self.seed, self.size)


def receive(connection: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes; raises Damage if the end comes before."""
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 16))
        if not part:
            raise Damage(f"the end came {size} bytes early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_to_end(connection: socket.socket) -> bytes:
    """Return all there is until the peer has sent its last."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def check(received: bytes, sent: bytes, what: str) -> None:
    """Raise Damage unless the two are equal."""
    if received != sent:
        same = next(
            (i for i, (a, b) in enumerate(zip(received, sent, strict=False)) if a != b), min(len(received), len(sent))
        )
        raise Damage(f"{what}: {len(received)} bytes for {len(sent)}, different from byte {same} on")


def expect_end(connection: socket.socket) -> None:
    """Check that nothing more comes."""
    check(connection.recv(1), b"", "after the end")


def send_in_pieces(connection: socket.socket, data: bytes, dice: random.Random) -> None:
    """Send everything in pieces of random sizes, some of them one byte."""
    place = 0
    while place < len(data):
        piece = 1 if dice.random() < 0.1 else dice.randrange(1, 20_000)
        connection.sendall(data[place : place + piece])
        place += piece


# ---- the two ends of each kind ---------------------------------------------------------------------------------------


def echo_client(connection: socket.socket, order: Order, dice: random.Random) -> None:
    """Send a burst and have it back."""
    data = order.data()
    send_in_pieces(connection, data, dice)
    check(receive(connection, len(data)), data, "echo")


def echo_server(connection: socket.socket, order: Order) -> None:
    """Check and return what comes, as it comes."""
    data, place = order.data(), 0
    while place < len(data):
        part = connection.recv(1 << 14)
        check(part, data[place : place + len(part)] or b"more", "burst")
        connection.sendall(part)
        place += len(part)


def idle_client(connection: socket.socket, _order: Order, dice: random.Random) -> None:
    """Stay connected, say little."""
    for _ in range(3):
        time.sleep(dice.random() * 2)
        connection.sendall(READY)
        check(receive(connection, 1), READY, "idle")
    connection.sendall(DONE)
    expect_end(connection)


def idle_server(connection: socket.socket, _order: Order) -> None:
    """Answer until it is done."""
    while (word := receive(connection, 1)) != DONE:
        connection.sendall(word)


def half_close_client(connection: socket.socket, order: Order, dice: random.Random) -> None:
    """Send all and say so; the answer comes after the end of this direction."""
    data = order.data()
    send_in_pieces(connection, data, dice)
    connection.shutdown(socket.SHUT_WR)
    check(receive_to_end(connection), COUNT.pack(len(data)) + data[::-1], "after the half-close")


def half_close_server(connection: socket.socket, order: Order) -> None:
    """Read to the end, then answer."""
    data = order.data()
    check(receive_to_end(connection), data, "to the half-close")
    connection.sendall(COUNT.pack(len(data)) + data[::-1])


def reset_client(connection: socket.socket, order: Order, dice: random.Random) -> None:
    """Break off in the middle."""
    connection.sendall(order.data()[: order.size // 2])
    if dice.random() < 0.5:
        receive(connection, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_server(connection: socket.socket, order: Order) -> None:
    """See the reset, or an end, and nothing wrong before it."""
    data, place = order.data(), 0
    try:
        connection.sendall(READY)
        while part := connection.recv(1 << 14):
            check(part, data[place : place + len(part)], "before the reset")
            place += len(part)
    except (ConnectionResetError, BrokenPipeError):
        pass


def late_client(connection: socket.socket, order: Order, _dice: random.Random) -> None:
    """Keep the server waiting until it has given up a few times, then send."""
    data = order.data()
    half = len(data) // 2
    connection.sendall(data[:half])
    receive(connection, 1)
    connection.sendall(data[half:])
    expect_end(connection)


def late_server(connection: socket.socket, order: Order) -> None:
    """Time out while waiting for more, and lose nothing of what comes after and before."""
    data, received, told = order.data(), b"", False
    connection.settimeout(0.002)
    limit = time.monotonic() + PATIENCE
    while len(received) < len(data):
        try:
            received += connection.recv(777)
        except TimeoutError:
            EVENTS["receive timed out"] += 1
            if time.monotonic() > limit:
                raise
            if len(received) >= len(data) // 2 and not told:
                connection.sendall(READY)
                told = True
    check(received, data, "across timeouts")


def stalled_client(connection: socket.socket, order: Order, dice: random.Random) -> None:
    """Let the server's sends run into their timeout, then read how far it has come."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    receive(connection, 1)
    time.sleep(dice.random() * 0.05)
    received = receive_to_end(connection)
    check(received, order.data()[: len(received)], "of a stalled stream")
    EVENTS["stalled bytes"] += len(received)


def stalled_server(connection: socket.socket, order: Order) -> None:
    """Send until a send times out; what was taken before is what the peer shall have."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    connection.sendall(READY)
    connection.settimeout(0.005)
    data, place = order.data(), 0
    try:
        while place < len(data):
            place += connection.send(data[place : place + 30_000])
    except TimeoutError:
        EVENTS["send timed out"] += 1
    # Both ends add up: what was taken before a timeout must arrive, all of it.
    EVENTS["stalled bytes"] += place


def killed_client(connection: socket.socket, order: Order, dice: random.Random) -> None:
    """Send half of what the server waits for, which is killed meanwhile; nothing wrong may come before that."""
    data, received = order.data(), b""
    try:
        send_in_pieces(connection, data[: len(data) // 2], dice)
        while part := connection.recv(1 << 16):
            received += part
    except (ConnectionResetError, BrokenPipeError):
        pass
    check(received, data[: len(received)], "of a server that was killed")


def gone_client(connection: socket.socket, order: Order, dice: random.Random) -> None:
    """Send half, then wait for what does not come: whoever runs this is killed, if not before."""
    send_in_pieces(connection, order.data()[: order.size // 2], dice)
    receive(connection, order.size)


def gone_server(connection: socket.socket, order: Order) -> None:
    """Check what comes until the client is gone."""
    data, received = order.data(), b""
    with contextlib.suppress(ConnectionResetError):
        received = receive_to_end(connection)
    check(received, data[: len(received)], "of a client that was killed")


TRAFFIC = {
    "echo": (echo_client, echo_server),
    "idle": (idle_client, idle_server),
    "half-close": (half_close_client, half_close_server),
    "reset": (reset_client, reset_server),
    "late": (late_client, late_server),
    "stalled": (stalled_client, stalled_server),
    "killed": (killed_client, echo_server),
    "gone": (gone_client, gone_server),
}
KINDS = list(TRAFFIC)


def read_order(connection: socket.socket) -> Order | None:
    """Read the header; None if the client was killed before it had sent it."""
    try:
        kind, seed, size = HEADER.unpack(receive(connection, HEADER.size))
    except (Damage, ConnectionResetError):
        return None
    return Order(KINDS[kind], seed, size)


def killed(dice: random.Random, who: str, function: Callable[..., None], *arguments: object) -> None:
    """Run `function` in a tasklet that is killed after a moment, wherever it is; raises what it has raised."""
    import lissom

    errors: list[Exception] = []

    def run() -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - raised by whoever has joined
            errors.append(error)

    tasklet = lissom.spawn(run)
    time.sleep(dice.random() * 0.01)
    EVENTS[f"{who} killed in the middle"] += tasklet.alive
    tasklet.kill()
    lissom.join(tasklet)
    try:
        if errors:
            raise errors[0]
    finally:
        # Or the list, the error, its traceback and this frame hold each other, and all that the connection had, until
        # the collector comes to what is old: memory that grows for a quarter of an hour.
        errors.clear()


@contextlib.contextmanager
def never_accepted() -> Iterator[tuple[str, int]]:
    """Give the address of a listener whose queue is full: who connects waits, for ever if without a timeout."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address: tuple[str, int] = listener.getsockname()
        with contextlib.suppress(TimeoutError):
            for _ in range(10):
                stack.enter_context(socket.create_connection(address, timeout=0.5))
        yield address
