"""Sockets: every method that can block blocks only the calling tasklet, and behaves as the original."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected stream sockets."""
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening TCP socket."""
    with socket.create_server((HOST, 0)) as server:
        yield server


@pytest.fixture
def datagrams() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two datagram sockets with addresses."""
    with socket.socket(type=socket.SOCK_DGRAM) as left, socket.socket(type=socket.SOCK_DGRAM) as right:
        left.bind((HOST, 0))
        right.bind((HOST, 0))
        yield left, right


def meanwhile(wait: Callable[[], object], wake: Callable[[], object]) -> object:
    """Return what `wait` returns in a tasklet; it must wait, and not block the thread, until `wake` is called."""
    waiter = lissom.spawn(wait)
    lissom.schedule()
    assert waiter.blocked, "it did not wait"
    wake()
    with lissom.timeout(30):
        return lissom.join(waiter)


def fill(sock: socket.socket) -> int:
    """Send until the socket takes no more; return how many bytes it took."""
    sock.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(b"x" * 65536)
    sock.setblocking(True)
    return sent


def drain(sock: socket.socket, count: int) -> None:
    """Receive `count` bytes."""
    while count:
        count -= len(sock.recv(min(count, 65536)))


# ---- receiving -------------------------------------------------------------------------------------------------------

RECEIVES = {
    "recv": (lambda s: s.recv(10), b"data"),
    "recv large": (lambda s: s.recv(1 << 20), b"data"),
    "recv flags": (lambda s: s.recv(10, socket.MSG_PEEK), b"data"),
    "recv waitall": (lambda s: s.recv(4, socket.MSG_WAITALL), b"data"),
    "recv_into": (lambda s: (buffer := bytearray(10), s.recv_into(buffer), bytes(buffer[:4]))[1:], (4, b"data")),
    "recv_into nbytes": (
        lambda s: (buffer := bytearray(10), s.recv_into(buffer, 2), bytes(buffer[:2]))[1:],
        (2, b"da"),
    ),
    "recvfrom": (lambda s: s.recvfrom(10)[0], b"data"),
    "recvfrom flags": (lambda s: s.recvfrom(10, 0)[0], b"data"),
    "recvfrom_into": (lambda s: (buffer := bytearray(4), s.recvfrom_into(buffer)[0], bytes(buffer))[1:], (4, b"data")),
    "recvmsg": (lambda s: s.recvmsg(10)[:3], (b"data", [], 0)),
    "recvmsg_into": (lambda s: (buffer := bytearray(4), s.recvmsg_into([buffer])[0], bytes(buffer))[1:], (4, b"data")),
    "makefile": (lambda s: s.makefile("rb").read(4), b"data"),
}


@pytest.mark.parametrize("name", RECEIVES)
def test_receive_waits_for_data(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    receive, expected = RECEIVES[name]
    assert meanwhile(lambda: receive(pair[0]), lambda: pair[1].send(b"data")) == expected


@pytest.mark.parametrize("name", RECEIVES)
def test_receive_of_what_is_there_does_not_switch(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    receive, expected = RECEIVES[name]
    order: list[str] = []
    pair[1].send(b"data")
    lissom.spawn(order.append, "switched")
    assert receive(pair[0]) == expected
    assert order == []
    lissom.run()


@pytest.mark.parametrize("name", RECEIVES)
def test_receive_with_a_timeout_raises_timeout_error(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    receive, _ = RECEIVES[name]
    pair[0].settimeout(0.005)
    with pytest.raises(TimeoutError, match="timed out"):
        receive(pair[0])
    assert pair[0].gettimeout() == 0.005


@pytest.mark.parametrize("name", [name for name in RECEIVES if name != "makefile"])
def test_receive_on_a_non_blocking_socket_raises_at_once(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    receive, _ = RECEIVES[name]
    pair[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        receive(pair[0])


@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "recvmsg", "makefile"])
def test_receive_sees_the_end_of_the_stream(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    receive, _ = RECEIVES[name]
    result = meanwhile(lambda: receive(pair[0]), lambda: pair[1].shutdown(socket.SHUT_WR))
    assert result in (b"", (0, bytes(4)), (b"", [], 0))
    receive(pair[0])


def test_recv_of_nothing_returns_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].send(b"x")
    assert pair[0].recv(0) == b""
    assert pair[0].recv(1) == b"x"


def test_recv_after_peer_reset_raises_econnreset(listener: socket.socket) -> None:
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with server, pytest.raises(ConnectionResetError):
        meanwhile(lambda: server.recv(10), client.close)


def test_waitall_collects_what_arrives_in_parts(pair: tuple[socket.socket, socket.socket]) -> None:
    def send_in_parts() -> None:
        for part in (b"ab", b"cd", b"ef"):
            pair[1].send(part)
            lissom.sleep(0.001)

    assert meanwhile(lambda: pair[0].recv(6, socket.MSG_WAITALL), send_in_parts) == b"abcdef"


def test_datagrams_keep_their_bounds_and_addresses(datagrams: tuple[socket.socket, socket.socket]) -> None:
    left, right = datagrams
    received = meanwhile(lambda: left.recvfrom(100), lambda: right.sendto(b"one", left.getsockname()))
    assert received == (b"one", right.getsockname())
    right.sendto(b"two", left.getsockname())
    right.sendto(b"", left.getsockname())
    assert left.recv(1) == b"t"
    assert left.recv(100) == b""


def test_recvmsg_brings_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    read, write = os.pipe()
    room = socket.CMSG_LEN(4)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read]))]
    data, ancillary, _, _ = meanwhile(lambda: pair[0].recvmsg(10, room), lambda: pair[1].sendmsg([b"fd"], rights))
    assert data == b"fd"
    (received,) = array.array("i", ancillary[0][2])
    os.write(write, b"through")
    assert os.read(received, 10) == b"through"
    for descriptor in (read, write, received):
        os.close(descriptor)


# ---- sending ---------------------------------------------------------------------------------------------------------

SENDS = {
    "send": lambda s: s.send(b"y" * 1000),
    "sendall": lambda s: s.sendall(b"y" * 1000) or 1000,
    "sendmsg": lambda s: s.sendmsg([b"y" * 500, b"y" * 500]),
    "sendall memoryview": lambda s: s.sendall(memoryview(b"y" * 1000)) or 1000,
}


@pytest.mark.parametrize("name", SENDS)
def test_send_waits_for_room(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    filled = fill(pair[0])
    assert meanwhile(lambda: SENDS[name](pair[0]), lambda: drain(pair[1], filled)) == 1000
    assert pair[1].recv(1000, socket.MSG_WAITALL) == b"y" * 1000


@pytest.mark.parametrize("name", SENDS)
def test_send_with_a_timeout_raises_timeout_error(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    fill(pair[0])
    pair[0].settimeout(0.005)
    with pytest.raises(TimeoutError, match="timed out"):
        SENDS[name](pair[0])


@pytest.mark.parametrize("name", SENDS)
def test_send_on_a_non_blocking_socket_raises_at_once(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    fill(pair[0])
    pair[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        SENDS[name](pair[0])


@pytest.mark.parametrize("name", SENDS)
def test_send_to_a_closed_peer_raises_epipe(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        SENDS[name](pair[0])


def test_sendall_of_much_data_arrives_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    data = os.urandom(1 << 22)
    sender = lissom.spawn(lambda: (pair[0].sendall(data), pair[0].shutdown(socket.SHUT_WR)))
    received = bytearray()
    while part := pair[1].recv(100_000):
        received += part
    lissom.join(sender)
    assert received == data


def test_sendall_has_one_timeout_for_the_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    def read_slowly() -> None:
        while pair[1].recv(50_000):
            lissom.sleep(0.005)

    reader = lissom.spawn(read_slowly)
    pair[0].settimeout(0.05)
    with pytest.raises(TimeoutError):
        pair[0].sendall(bytes(1 << 26))
    reader.kill()


def test_sendfile_and_makefile_write(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    path = tmp_path / "data"
    path.write_bytes(data)

    def send() -> None:
        with path.open("rb") as file:
            pair[0].sendfile(file)
        with pair[0].makefile("wb") as stream:
            stream.write(b"end")

    sender = lissom.spawn(send)
    received = pair[1].recv(len(data) + 3, socket.MSG_WAITALL)
    lissom.join(sender)
    assert received == data + b"end"
