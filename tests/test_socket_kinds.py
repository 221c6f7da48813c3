"""Every kind of socket, and what several tasklets or threads do with one.

Each test runs twice: with the originals and threads, and hooked, with threads that are tasklets.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script


@pytest.fixture(params=["original", "hooked"], autouse=True)
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both worlds, one after the other."""
    hooked = request.param == "hooked"
    if hooked:
        lissom.hook()
    yield request.param
    if hooked:
        lissom.unhook()


class Thread(threading.Thread):
    """A thread whose result or exception is had by `result`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        super().__init__(daemon=True)
        self._function, self._args = function, args
        self.start()

    def run(self) -> None:
        """Call the function."""
        try:
            self._value: object = self._function(*self._args)
            self._error: BaseException | None = None
        except BaseException as error:  # noqa: BLE001
            self._error = error

    def result(self) -> Any:
        """Wait for the function and return its result."""
        self.join(30)
        assert not self.is_alive(), "it still waits"
        if self._error is not None:
            raise self._error
        return self._value


def later(function: Callable[..., object], *args: object) -> None:
    """Call it after a moment, when the caller waits: in a tasklet or thread of its own."""
    threading.Timer(0.02, function, args).start()


@contextlib.contextmanager
def pair(family: int = socket.AF_UNIX, kind: int = socket.SOCK_STREAM) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    here, there = socket.socketpair(family, kind)
    with here, there:
        yield here, there


@contextlib.contextmanager
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as here,
        listener.accept()[0] as there,
    ):
        yield here, there


@pytest.mark.parametrize("end", ["client", "accepted"])
def test_close_of_a_socket_that_lingers_lets_others_run(end: str) -> None:
    linger = struct.pack("ii", 1, 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if end == "accepted":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
        if end == "accepted":
            here, there = there, here
        else:
            here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    with there:
        # More than the peer's kernel takes while the peer does not read.
        here.settimeout(0.1)
        with pytest.raises(TimeoutError):
            here.sendall(bytes(50_000_000))
        begin = time.monotonic()
        closer = Thread(here.close)
        turns = 0
        while closer.is_alive():
            time.sleep(0.01)
            turns += 1
        closer.result()
        assert time.monotonic() - begin > 0.9
        assert turns > 20
        assert here.fileno() == -1
    # Without a time, at once: the peer is reset.
    with tcp() as (here, there):
        here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        here.close()
        with pytest.raises(ConnectionResetError):
            there.recv(1)


# ---- kinds -----------------------------------------------------------------------------------------------------------


def urgent(sender: socket.socket) -> None:
    """Send with a byte of urgent data in the middle."""
    sender.send(b"abc")
    sender.send(b"!", socket.MSG_OOB)
    sender.send(b"def")


def with_descriptor(sender: socket.socket) -> None:
    """Send with a descriptor along."""
    descriptors = array.array("i", [sender.fileno()]).tobytes()
    sender.sendmsg([b"abc"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    sender.send(b"def")


@pytest.mark.parametrize("busy", [False, True], ids=["waits", "comes late"])
@pytest.mark.parametrize(
    ("ends", "inline", "send"),
    [(tcp, 0, urgent), (tcp, 1, urgent), (pair, 0, with_descriptor)],
    ids=["urgent data", "urgent data in line", "descriptor"],
)
def test_receive_that_stops_short_with_more_behind(ends: Any, inline: int, send: Any, busy: bool) -> None:
    with ends() as (here, there):
        here.settimeout(10)
        if inline:
            here.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        expected = b"xabc!def" if inline else b"xabcdef"
        received = []

        def receive(receiver: Callable[[], bytes]) -> None:
            while len(b"".join(received)) < len(expected):
                received.append(receiver())

        def into() -> bytes:
            room = bytearray(100)
            return bytes(room[: here.recv_into(room)])

        # The first byte finds the receiver waiting: from then on the socket is registered.
        for receiver in (lambda: here.recv(100), into):
            received.clear()
            reader = Thread(receive, receiver)
            time.sleep(0.01)
            there.send(b"x")
            if not busy:
                time.sleep(0.01)
            send(there)
            reader.result()
            assert b"".join(received) == expected


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM", "SOCK_SEQPACKET"])
def test_unix_sockets_of_each_kind(kind: str) -> None:
    with pair(kind=getattr(socket, kind)) as (here, there):
        reader = Thread(here.recv, 100)
        later(there.send, b"hello")
        assert reader.result() == b"hello"
        if kind != "SOCK_STREAM":
            there.send(b"one")
            there.send(b"two")
            assert (here.recv(100), here.recv(100)) == (b"one", b"two"), "messages stay apart"
            there.send(b"cut")
            data, _, flags, _ = here.recvmsg(2)
            assert (data, bool(flags & socket.MSG_TRUNC)) == (b"cu", True)


def test_abstract_and_named_unix_addresses(tmp_path: Path) -> None:
    for address in (b"\0lissom-test-%d" % os.getpid(), str(tmp_path / "socket")):
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(address)
            listener.listen()
            accepting = Thread(listener.accept)
            later(client.connect, address)
            connection, _ = accepting.result()
            with connection:
                client.sendall(b"x")
                assert connection.recv(1) == b"x"
                assert client.getpeername() == address


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_udp_and_tcp_by_both_families(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        probe = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"no {host}: {error}")
    with probe as listener:
        accepting = Thread(listener.accept)
        with socket.create_connection(listener.getsockname()[:2], timeout=30) as client:
            connection, address = accepting.result()
            with connection:
                assert address == client.getsockname()
    with socket.socket(family, socket.SOCK_DGRAM) as here, socket.socket(family, socket.SOCK_DGRAM) as there:
        here.bind((host, 0))
        there.bind((host, 0))
        reader = Thread(here.recvfrom, 100)
        later(there.sendto, b"datagram", here.getsockname())
        assert reader.result() == (b"datagram", there.getsockname())
        memory = bytearray(10)
        there.sendto(b"into", here.getsockname())
        assert here.recvfrom_into(memory) == (4, there.getsockname())


def test_dual_stack_server_takes_both_families() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6")
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            accepting = Thread(listener.accept)
            with socket.create_connection((host, port), timeout=30):
                accepting.result()[0].close()


def open_or_skip(*args: int) -> socket.socket:
    """Open a socket of a kind that not every kernel has or every user may open."""
    try:
        return socket.socket(*args)
    except OSError as error:
        pytest.skip(f"not here: {error}")


def test_raw_sockets_receive_what_is_sent() -> None:
    protocol = 253  # for experiments (RFC 3692)
    with open_or_skip(socket.AF_INET, socket.SOCK_RAW, protocol) as here:
        reader = Thread(here.recvfrom, 1000)
        with open_or_skip(socket.AF_INET, socket.SOCK_RAW, protocol) as there:
            later(there.sendto, b"raw", ("127.0.0.1", 0))
            data, (host, _) = reader.result()
        assert (data[20:], host) == (b"raw", "127.0.0.1")


def test_netlink_answers() -> None:
    with open_or_skip(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.bind((0, 0))
        # RTM_GETLINK with NLM_F_REQUEST and NLM_F_DUMP (rtnetlink(7)).
        header = (16 + 16).to_bytes(4, "little") + (18).to_bytes(2, "little") + (0x301).to_bytes(2, "little")
        route.sendto(header + bytes(8) + bytes(16), (0, 0))
        assert len(Thread(route.recv, 65536).result()) > 16


def test_vsock_timeout_is_a_timeout() -> None:
    with open_or_skip(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        try:
            listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            listener.listen()
        except OSError as error:
            pytest.skip(f"no VSOCK: {error}")
        listener.settimeout(0.02)
        with pytest.raises(TimeoutError):
            Thread(listener.accept).result()


def test_kernel_crypto_hashes() -> None:
    with open_or_skip(socket.AF_ALG, socket.SOCK_SEQPACKET) as algorithm:
        try:
            algorithm.bind(("hash", "sha256"))
        except OSError as error:
            pytest.skip(f"no such hash in the kernel: {error}")
        operation, _ = algorithm.accept()
        with operation:
            operation.sendall(b"abc")
            assert operation.recv(64).hex().startswith("ba7816bf8f01cfea")


# ---- calls -----------------------------------------------------------------------------------------------------------


def test_peek_leaves_the_data_where_it_is() -> None:
    with pair() as (here, there):
        reader = Thread(here.recv, 100, socket.MSG_PEEK)
        later(there.sendall, b"look")
        assert reader.result() == b"look"
        assert here.recv(2, socket.MSG_PEEK) == b"lo"
        assert here.recv(100) == b"look"


def test_waitall_waits_for_all_or_the_end() -> None:
    with pair() as (here, there):
        reader = Thread(here.recv, 6, socket.MSG_WAITALL)
        there.sendall(b"one")
        later(there.sendall, b"two")
        assert reader.result() == b"onetwo"
        reader = Thread(here.recv, 6, socket.MSG_WAITALL)
        there.sendall(b"end")
        later(there.close)
        assert reader.result() == b"end"


def test_timeouts_of_each_call_lose_nothing() -> None:
    with pair() as (here, there):
        here.settimeout(0.01)
        memory = bytearray(10)
        for call in (here.recv, here.recvfrom, here.recvmsg):
            with pytest.raises(TimeoutError):
                call(1)
        for into in (here.recv_into, here.recvfrom_into):
            with pytest.raises(TimeoutError):
                into(memory)
        with pytest.raises(TimeoutError):
            here.recvmsg_into([memory])
        there.sendall(b"all")
        assert here.recv(10) == b"all"
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += here.send(bytes(65536))
        there.settimeout(30)
        received = 0
        here.shutdown(socket.SHUT_WR)
        while part := there.recv(1 << 20):
            received += len(part)
        assert received == sent


def test_default_timeout_is_that_of_new_sockets() -> None:
    socket.setdefaulttimeout(0.01)
    try:
        with pair() as (here, _):
            assert here.gettimeout() == 0.01
            with pytest.raises(TimeoutError):
                here.recv(1)
            here.setblocking(False)
            assert not here.getblocking()
            with pytest.raises(BlockingIOError):
                here.recv(1)
    finally:
        socket.setdefaulttimeout(None)


def test_descriptors_and_credentials_travel_as_ancillary_data(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("passed")
    with pair() as (here, there), path.open() as file:
        reader = Thread(socket.recv_fds, here, 10, 4)
        later(socket.send_fds, there, [b"x"], [file.fileno()])
        data, fds, _, _ = reader.result()
        with os.fdopen(fds[0]) as received:
            assert (data, received.read()) == (b"x", "passed")
        here.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        there.sendmsg([b"me", b"ssage"], [])
        data, ((level, kind, credentials),), _, _ = here.recvmsg(100, socket.CMSG_SPACE(12))
        assert (data, level, kind) == (b"message", socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
        assert array.array("i", credentials)[0] == os.getpid()


def test_sendfile_by_all_its_paths(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    path = tmp_path / "file"
    path.write_bytes(content)

    def read_all(connection: socket.socket) -> bytes:
        with connection.makefile("rb") as file:
            return file.read()

    for use in (socket.socket.sendfile, socket.socket._sendfile_use_send):  # type: ignore[attr-defined]
        with pair() as (here, there), path.open("rb") as file:
            reader = Thread(read_all, there)
            assert use(here, file, 1000, 700_000) == 700_000
            assert file.tell() == 701_000
            here.shutdown(socket.SHUT_WR)
            assert reader.result() == content[1000:701_000]


def test_text_files_of_sockets() -> None:
    with pair() as (here, there), here.makefile("rw", encoding="utf-8") as mine, there.makefile("rw") as theirs:
        reader = Thread(mine.readline)
        theirs.write("a line\nand another\n")
        later(theirs.flush)
        assert reader.result() == "a line\n"
        assert mine.readline() == "and another\n"


def test_duplicates_and_detached_descriptors_are_the_same_socket() -> None:
    with pair() as (here, there):
        with here.dup() as copy:
            reader = Thread(copy.recv, 10)
            later(there.sendall, b"dup")
            assert reader.result() == b"dup"
        there.sendall(b"still open")
        assert here.recv(100) == b"still open"
        with socket.socket(fileno=here.detach()) as again:
            assert here.fileno() == -1
            reader = Thread(again.recv, 10)
            later(there.sendall, b"again")
            assert reader.result() == b"again"


def test_socket_is_shared_with_a_forked_child(script: Script, mode: str) -> None:
    done = script(
        """
        import os, socket
        here, there = socket.socketpair()
        child = os.fork()
        if child == 0:
            there.sendall(there.recv(10) + b", said the child")
            os._exit(0)
        here.sendall(b"word")
        print(here.recv(100).decode())
        os.waitpid(child, 0)
        """,
        hooked=mode == "hooked",
    )
    assert done.stdout == "word, said the child\n"


# ---- several at one socket -------------------------------------------------------------------------------------------


def test_each_of_many_readers_gets_one_message() -> None:
    with pair(kind=socket.SOCK_DGRAM) as (here, there):
        readers = [Thread(here.recv, 10) for _ in range(20)]
        for number in range(20):
            there.send(b"%d" % number)
        assert sorted(int(reader.result()) for reader in readers) == list(range(20))


def test_reader_and_writer_at_once() -> None:
    with pair() as (here, there):
        data = os.urandom(1 << 20)

        def read(connection: socket.socket) -> bytes:
            return connection.recv(len(data), socket.MSG_WAITALL)

        readers = [Thread(read, connection) for connection in (here, there)]
        writers = [Thread(connection.sendall, data) for connection in (here, there)]
        assert [reader.result() for reader in readers] == [data, data]
        for writer in writers:
            writer.result()


def test_shutdown_elsewhere_wakes_a_reader() -> None:
    with pair() as (here, _):
        reader = Thread(here.recv, 10)
        later(here.shutdown, socket.SHUT_RD)
        assert reader.result() == b""


def test_shutdown_elsewhere_wakes_who_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = Thread(listener.accept)
        later(listener.shutdown, socket.SHUT_RDWR)
        with pytest.raises(OSError, match="Invalid argument"):
            accepting.result()


def test_close_elsewhere_wakes_a_tasklet_that_waits(mode: str) -> None:
    """A thread would wait for ever, as the kernel lets it; a tasklet gets the error that its next call would get."""
    if mode == "original":
        pytest.skip("the thread would wait for ever")
    here, there = socket.socketpair()
    reader = Thread(here.recv, 10)
    later(here.close)
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader.result()
    there.close()


def test_nothing_is_read_ahead_of_the_program() -> None:
    with pair() as (here, there):
        reader = Thread(here.recv, 1)
        later(there.sendall, b"12345")
        assert reader.result() == b"1"
        # What the kernel holds is there for whoever comes by the descriptor.
        assert os.read(here.fileno(), 100) == b"2345"
