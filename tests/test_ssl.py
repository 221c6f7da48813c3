"""TLS: the standard library's `ssl` on top of hooked sockets blocks only the calling tasklet."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Pair = tuple[ssl.SSLSocket, ssl.SSLSocket]


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of its own, and a client's that trusts it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


@pytest.fixture
def pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Pair]:
    """The two ends of a TLS connection."""
    server_context, client_context = contexts
    left, right = socket.socketpair()
    with contextlib.ExitStack() as stack:
        accepting = lissom.spawn(server_context.wrap_socket, left, server_side=True)
        client = stack.enter_context(client_context.wrap_socket(right, server_hostname="localhost"))
        server = stack.enter_context(lissom.join(accepting))
        yield server, client


def meanwhile(wait: Callable[[], object], wake: Callable[[], object]) -> object:
    """Return what `wait` returns in a tasklet; it must wait, and not block the thread, until `wake` is called."""
    waiter = lissom.spawn(wait)
    lissom.schedule()
    assert waiter.blocked, "it did not wait"
    wake()
    with lissom.timeout(30):
        return lissom.join(waiter)


def test_receive_waits_for_data(pair: Pair) -> None:
    server, client = pair
    assert meanwhile(lambda: server.recv(100), lambda: client.sendall(b"data")) == b"data"
    buffer = bytearray(4)
    assert meanwhile(lambda: server.recv_into(buffer), lambda: client.sendall(b"more")) == 4
    assert buffer == b"more"


def test_much_data_passes_in_both_directions_at_once(pair: Pair) -> None:
    data = os.urandom(1 << 21)

    def receive(sock: ssl.SSLSocket) -> bytes:
        received = bytearray()
        while len(received) < len(data):
            received += sock.recv(65536)
        return bytes(received)

    tasklets = [lissom.spawn(receive, sock) for sock in pair] + [lissom.spawn(sock.sendall, data) for sock in pair]
    with lissom.timeout(30):
        assert [lissom.join(tasklet) for tasklet in tasklets] == [data, data, None, None]


def test_timeouts_of_the_socket_hold(pair: Pair) -> None:
    pair[0].settimeout(0.01)
    with pytest.raises(TimeoutError):
        pair[0].recv(1)
    with pytest.raises(TimeoutError):
        pair[0].sendall(bytes(1 << 24))


def test_timeout_block_ends_a_wait_and_the_connection_works_on(pair: Pair) -> None:
    server, client = pair
    with pytest.raises(TimeoutError), lissom.timeout(0.01):
        server.recv(1)
    client.sendall(b"later")
    assert server.recv(10) == b"later"


def test_handshake_with_a_silent_peer_blocks_only_its_tasklet(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    left, right = socket.socketpair()
    with right, contexts[0].wrap_socket(left, server_side=True, do_handshake_on_connect=False) as secured:
        shaking = lissom.spawn(secured.do_handshake)
        lissom.schedule()
        assert shaking.blocked
        shaking.kill()


def test_end_of_the_connection_is_seen(pair: Pair) -> None:
    server, client = pair

    def close() -> None:
        with contextlib.suppress(OSError):
            client.unwrap()

    closing = lissom.spawn(close)
    with lissom.timeout(30):
        assert server.recv(1) == b""
    server.close()
    lissom.join(closing)


def test_server_with_a_thread_for_each_connection(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server_context, client_context = contexts

    def serve(connection: socket.socket) -> None:
        with server_context.wrap_socket(connection, server_side=True) as secured:
            while data := secured.recv(1024):
                secured.sendall(data.upper())

    def accept() -> None:
        for _ in range(20):
            threads.append(threading.Thread(target=serve, args=[listener.accept()[0]]))
            threads[-1].start()

    def client(number: int) -> bytes:
        with socket.create_connection(listener.getsockname()) as plain:
            with client_context.wrap_socket(plain, server_hostname="localhost") as secured:
                secured.sendall(b"client %d" % number)
                return secured.recv(1024)

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = lissom.spawn(accept)
        clients = [lissom.spawn(client, number) for number in range(20)]
        with lissom.timeout(60):
            assert [lissom.join(tasklet) for tasklet in clients] == [b"CLIENT %d" % number for number in range(20)]
            lissom.join(accepting)
    for thread in threads:
        thread.join(30)
