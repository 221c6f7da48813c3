"""Unmodified servers of the standard library, and clients that misbehave."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import resource
import socket
import socketserver
import struct
import threading
import time
import urllib.request
import xmlrpc.client
import xmlrpc.server
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Address = tuple[str, int]


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[Address]:
    """Run the server in a thread for the time of the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            yield server.server_address  # type: ignore[misc]
        finally:
            server.shutdown()
            thread.join(30)


class EchoServer(socketserver.ThreadingTCPServer):
    """Echoes; remembers no errors: a reset connection ends its handler, as for every such server."""

    daemon_threads = True
    request_queue_size = 1024

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while data := self.request.recv(65536):
                    self.request.sendall(data)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler)


def echoes(address: Address) -> bool:
    """Say whether the server answers a new client."""
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(b"are you there?")
        return client.recv(100) == b"are you there?"


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def more_descriptors(count: int) -> None:
    """Raise the limit on open files, or skip the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            pytest.skip(f"needs {count} descriptors, may have {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


# ---- the servers of the standard library -----------------------------------------------------------------------------


def test_http_server_serves_keep_alive_connections(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("content")

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    def client() -> int:
        connection = http.client.HTTPConnection(*address, timeout=30)
        with contextlib.closing(connection):
            for _ in range(5):
                connection.request("GET", "/page.txt")
                assert connection.getresponse().read() == b"content"
            connection.request("GET", "/nothing")
            response = connection.getresponse()
            response.read()
            return response.status

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 100  # the usual 5 would leave it to the kernel when most of the clients get in

    with serving(Server(("127.0.0.1", 0), Handler)) as address:
        clients = [lissom.spawn(client) for _ in range(50)]
        assert [lissom.join(tasklet) for tasklet in clients] == [404] * 50
        with urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/page.txt", timeout=30) as response:
            assert response.read() == b"content"


def test_xmlrpc_server_and_client() -> None:
    server = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(pow)
    with serving(server) as (host, port), xmlrpc.client.ServerProxy(f"http://{host}:{port}") as proxy:
        assert proxy.pow(2, 10) == 1024


def test_udp_and_unix_servers(tmp_path: Path) -> None:
    class Upper(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if isinstance(self.request, tuple):
                data, sock = self.request
                sock.sendto(data.upper(), self.client_address)
            else:
                self.request.sendall(self.request.recv(100).upper())

    with serving(socketserver.ThreadingUDPServer(("127.0.0.1", 0), Upper)) as address:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(30)
            client.sendto(b"datagram", address)
            assert client.recv(100) == b"DATAGRAM"
    with serving(socketserver.ThreadingUnixStreamServer(str(tmp_path / "s"), Upper)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.sendall(b"stream")
            assert client.recv(100) == b"STREAM"


# ---- misbehaving clients ---------------------------------------------------------------------------------------------


def test_server_survives_connections_reset_at_any_moment() -> None:
    with serving(EchoServer()) as address:

        def client(moment: int) -> None:
            sock = socket.create_connection(address)
            if moment % 4 >= 1:
                sock.sendall(b"x" * 1000 * moment)
            if moment % 4 >= 2:
                sock.recv(100)
            if moment % 4 == 3:
                time.sleep(0.001)
            reset(sock)

        for tasklet in [lissom.spawn(client, moment) for moment in range(200)]:
            lissom.join(tasklet)
        assert echoes(address)


def test_server_survives_a_reset_before_it_accepts() -> None:
    server = EchoServer()
    for _ in range(20):
        reset(socket.create_connection(server.server_address))
    with serving(server) as address:
        assert echoes(address)


def test_half_open_and_silent_clients_hold_nobody_up() -> None:
    with serving(EchoServer()) as address, contextlib.ExitStack() as stack:
        for _ in range(50):
            silent = stack.enter_context(socket.create_connection(address))
            silent.send(b"half a requ")
        for _ in range(50):
            half_open = stack.enter_context(socket.create_connection(address))
            half_open.shutdown(socket.SHUT_WR)
            assert half_open.recv(10) == b""
        assert echoes(address)


def test_slow_reader_holds_up_only_its_own_handler() -> None:
    with serving(EchoServer()) as address, socket.create_connection(address) as slow:
        data = bytes(1 << 25)  # more than all buffers on the way hold
        sender = lissom.spawn(slow.sendall, data)
        time.sleep(0.01)
        assert sender.blocked
        assert all(echoes(address) for _ in range(10))
        received = bytearray()
        while len(received) < len(data):
            received += slow.recv(1 << 20)
        assert received == data
        lissom.join(sender)


def test_client_that_sends_byte_by_byte_is_served() -> None:
    with serving(EchoServer()) as address, socket.create_connection(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(200):
            client.sendall(bytes([number]))
            assert client.recv(10) == bytes([number])


def test_descriptors_of_all_these_connections_are_closed() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with serving(EchoServer()) as address:
        assert echoes(address)
        time.sleep(0.01)
        before = count()
        for number in range(50):
            sock = socket.create_connection(address)
            sock.sendall(b"data")
            if number % 2:
                reset(sock)
            else:
                sock.close()
        deadline = time.monotonic() + 30
        while count() > before and time.monotonic() < deadline:
            time.sleep(0.001)
        assert count() <= before


def test_two_thousand_connections_at_once() -> None:
    connections = 2000
    more_descriptors(2 * connections + 200)
    with serving(EchoServer()) as address:

        def client(number: int) -> bool:
            with socket.create_connection(address, timeout=60) as sock:
                sock.sendall(b"%d" % number)
                first = sock.recv(100)
                everybody.wait(60)
                sock.sendall(b"again")
                return first == b"%d" % number and sock.recv(100) == b"again"

        everybody = threading.Barrier(connections)
        tasklets = [lissom.spawn(client, number) for number in range(connections)]
        assert all(lissom.join(tasklet) for tasklet in tasklets)


def test_out_of_descriptors_is_an_error_of_the_call_and_not_the_end() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        accepting = lissom.spawn(listener.accept)
        lissom.schedule()
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 3, hard))
        filler = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    filler.append(os.dup(listener.fileno()))
            client.connect(listener.getsockname())
            with pytest.raises(OSError, match="Too many open files"):
                lissom.join(accepting)
        finally:
            for number in filler:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        listener.accept()[0].close()


# ---- fairness --------------------------------------------------------------------------------------------------------


def test_tasklet_whose_calls_never_wait_does_not_starve_the_others() -> None:
    left, right = socket.socketpair()
    done: list[bool] = []

    def flood() -> int:
        rounds = 0
        deadline = time.monotonic() + 10
        while not done and time.monotonic() < deadline:
            left.send(b"x")
            right.recv(1)
            rounds += 1
        return rounds

    with left, right:
        flooding = lissom.spawn(flood)
        start = time.monotonic()
        time.sleep(0.01)
        took = time.monotonic() - start
        done.append(True)
        assert lissom.join(flooding) > 1
    assert took < 5


def test_flooding_client_does_not_starve_the_others() -> None:
    with serving(EchoServer()) as address, socket.create_connection(address) as flooding:

        def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    flooding.sendall(bytes(65536))

        def drain() -> None:
            with contextlib.suppress(OSError):
                while flooding.recv(1 << 20):
                    pass

        tasklets = [lissom.spawn(flood), lissom.spawn(drain)]
        start = time.monotonic()
        assert all(echoes(address) for _ in range(20))
        assert time.monotonic() - start < 20
        for tasklet in tasklets:
            tasklet.kill()
