"""Sockets: every method that can block blocks only the calling tasklet, and behaves as the original."""

from __future__ import annotations

import array
import contextlib
import errno
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


# ---- connecting and accepting ----------------------------------------------------------------------------------------


def test_accept_waits_for_a_connection(listener: socket.socket) -> None:
    clients = []
    connection, address = meanwhile(
        listener.accept, lambda: clients.append(socket.create_connection(listener.getsockname()))
    )
    with connection, clients[0] as client:
        assert address == client.getsockname()
        assert connection.getsockname() == client.getpeername()
        assert connection.gettimeout() is None
        assert not connection.get_inheritable()


@pytest.mark.parametrize("family", [socket.AF_INET6, socket.AF_UNIX])
def test_accept_on_other_families(family: int, tmp_path: Path) -> None:
    if family == socket.AF_INET6 and not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        server = socket.create_server(("::1", 0) if family == socket.AF_INET6 else str(tmp_path / "s"), family=family)
    except OSError as error:
        pytest.skip(str(error))
    with server, socket.socket(family) as client:
        connection, address = meanwhile(server.accept, lambda: client.connect(server.getsockname()))
        with connection:
            assert address == client.getsockname()
            client.sendall(b"hello")
            assert connection.recv(5) == b"hello"


def test_accept_with_a_timeout_raises_timeout_error(listener: socket.socket) -> None:
    listener.settimeout(0.005)
    with pytest.raises(TimeoutError):
        listener.accept()


def test_accept_on_a_non_blocking_listener_raises_at_once(listener: socket.socket) -> None:
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_connect_to_nobody_raises_econnrefused() -> None:
    with socket.create_server((HOST, 0)) as gone:
        address = gone.getsockname()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)
    with socket.socket() as client:
        assert client.connect_ex(address) == errno.ECONNREFUSED


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """Return a listener whose queue takes no more connections, and what fills it."""
    server = socket.create_server((HOST, 0), backlog=0)
    clients = []
    for _ in range(20):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(server.getsockname())
        clients.append(client)
    lissom.sleep(0.01)
    return server, clients


@pytest.mark.parametrize("name", ["connect", "connect_ex", "create_connection"])
def test_connect_with_a_timeout_gives_up(name: str) -> None:
    server, clients = full_listener()
    with contextlib.ExitStack() as stack:
        for sock in (server, *clients):
            stack.enter_context(sock)
        if name == "create_connection":
            with pytest.raises(TimeoutError):
                socket.create_connection(server.getsockname(), timeout=0.02)
            return
        client = stack.enter_context(socket.socket())
        client.settimeout(0.02)
        if name == "connect_ex":
            assert client.connect_ex(server.getsockname()) in (errno.EAGAIN, errno.EWOULDBLOCK)
        else:
            with pytest.raises(TimeoutError):
                client.connect(server.getsockname())


def test_connect_waits_without_blocking_the_thread() -> None:
    server, clients = full_listener()
    with contextlib.ExitStack() as stack:
        for sock in (server, *clients):
            stack.enter_context(sock)
        client = stack.enter_context(socket.socket())
        waiter = lissom.spawn(client.connect, server.getsockname())
        lissom.schedule()
        assert waiter.blocked
        waiter.kill()


def test_connect_on_a_non_blocking_socket_raises_in_progress(listener: socket.socket) -> None:
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS


def test_connect_twice_raises_eisconn(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as client, pytest.raises(OSError) as caught:  # noqa: PT011
        client.connect(listener.getsockname())
    assert caught.value.errno == errno.EISCONN


def test_connect_by_name_resolves_it(listener: socket.socket) -> None:
    with socket.socket() as client:
        client.connect(("localhost", listener.getsockname()[1]))
        assert client.getpeername() == listener.getsockname()


def test_unix_connect_waits_while_the_queue_is_full(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        connecting = [lissom.spawn(client.connect, str(tmp_path / "s")) for client in clients]
        with lissom.timeout(30):
            for _ in clients:
                stack.enter_context(server.accept()[0])
            for tasklet in connecting:
                lissom.join(tasklet)


# ---- the mode of the descriptor --------------------------------------------------------------------------------------


def test_descriptors_keep_their_blocking_mode(
    listener: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
        meanwhile(lambda: server.recv(1), lambda: client.send(b"x"))
        meanwhile(lambda: pair[0].recvfrom(1), lambda: pair[1].send(b"x"))
        for sock in (listener, client, server, *pair):
            assert os.get_blocking(sock.fileno())


# ---- closing ---------------------------------------------------------------------------------------------------------


def test_shutdown_wakes_a_waiting_receiver(pair: tuple[socket.socket, socket.socket]) -> None:
    assert meanwhile(lambda: pair[0].recv(1), lambda: pair[0].shutdown(socket.SHUT_RD)) == b""


def test_close_wakes_a_waiting_receiver(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        meanwhile(lambda: pair[0].recv(1), pair[0].close)
    assert caught.value.errno == errno.EBADF


def test_descriptor_number_used_again_is_not_taken_for_the_old_one() -> None:
    for number in range(200):
        left, right = socket.socketpair()
        receiver = lissom.spawn(left.recv, 10)
        lissom.schedule()
        right.send(b"%d" % number)
        with lissom.timeout(30):
            assert lissom.join(receiver) == b"%d" % number
        left.close()
        right.close()


def test_descriptor_closed_while_unhooked_is_forgotten() -> None:
    for sock in socket.socketpair():
        reader = lissom.spawn(sock.recv, 1)
        lissom.schedule()
        reader.kill()
        lissom.unhook()
        sock.close()
        lissom.hook()
    with socket.create_server((HOST, 0)) as listener, socket.create_connection(listener.getsockname()):
        with lissom.timeout(10):
            listener.accept()[0].close()


def test_socket_can_be_used_by_two_tasklets_in_both_directions(pair: tuple[socket.socket, socket.socket]) -> None:
    data = os.urandom(1 << 20)

    def receive(sock: socket.socket) -> bytes:
        return sock.recv(len(data), socket.MSG_WAITALL)

    tasklets = [lissom.spawn(receive, sock) for sock in pair] + [lissom.spawn(sock.sendall, data) for sock in pair]
    with lissom.timeout(30):
        results = [lissom.join(tasklet) for tasklet in tasklets]
    assert results == [data, data, None, None]


def test_two_tasklets_receiving_from_one_socket_each_get_something(pair: tuple[socket.socket, socket.socket]) -> None:
    receivers = [lissom.spawn(pair[0].recv, 1) for _ in range(2)]
    lissom.schedule()
    pair[1].send(b"ab")
    with lissom.timeout(30):
        assert sorted(lissom.join(receiver) for receiver in receivers) == [b"a", b"b"]


@pytest.mark.parametrize(
    "call",
    [
        "recv(-1)",
        "recv()",
        "recv('x')",
        "send()",
        "send('text')",
        "sendall(5)",
        "recv_into(b'x')",
        "recv_into(bytearray(1), 5)",
        "connect(5)",
        "sendto(b'')",
    ],
)
def test_wrong_arguments_raise_what_the_original_raises(pair: tuple[socket.socket, socket.socket], call: str) -> None:
    def outcome() -> tuple[type, str]:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            eval(f"sock.{call}", {"sock": pair[0]})
        return caught.type, str(caught.value)

    hooked = outcome()
    lissom.unhook()
    assert outcome() == hooked


def test_many_connections_at_once(listener: socket.socket) -> None:
    def echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1024):
                connection.sendall(data)

    def serve() -> None:
        while True:
            lissom.spawn(echo, listener.accept()[0])

    def client(number: int) -> int:
        with socket.create_connection(listener.getsockname()) as sock:
            total = 0
            for step in range(5):
                sock.sendall(b"%d" % (number + step))
                total += int(sock.recv(1024)) - step
        return total // 5

    server = lissom.spawn(serve)
    clients = [lissom.spawn(client, number) for number in range(300)]
    with lissom.timeout(30):
        assert [lissom.join(tasklet) for tasklet in clients] == list(range(300))
    server.kill()
