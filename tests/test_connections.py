"""Connections: made, accepted, closed, their descriptors, and many of them at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
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


def meanwhile(wait: Callable[[], object], wake: Callable[[], object]) -> object:
    """Return what `wait` returns in a tasklet; it must wait, and not block the thread, until `wake` is called."""
    waiter = lissom.spawn(wait)
    lissom.schedule()
    assert waiter.blocked, "it did not wait"
    wake()
    with lissom.timeout(30):
        return lissom.join(waiter)


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
