"""Name resolution happens in a blocking thread; numeric hosts never leave the tasklet."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS: dict[str, Callable[[], object]] = {
    "getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "getaddrinfo service": lambda: socket.getaddrinfo("localhost", "http", type=socket.SOCK_STREAM),
    "getaddrinfo keywords": lambda: socket.getaddrinfo(host="localhost", port=1, family=socket.AF_INET),
    "gethostbyname": lambda: socket.gethostbyname("localhost"),
    "gethostbyname_ex": lambda: socket.gethostbyname_ex("localhost"),
    "gethostbyaddr": lambda: socket.gethostbyaddr("127.0.0.1"),
    "getnameinfo": lambda: socket.getnameinfo(("127.0.0.1", 80), 0),
    "getfqdn": lambda: socket.getfqdn("localhost"),
}


@pytest.fixture
def hooked() -> Iterator[None]:
    """Hook for the test."""
    lissom.hook()
    yield
    lissom.unhook()


def outcome(call: Callable[[], object]) -> object:
    """Return the result, or the exception's type and arguments."""
    try:
        return call()
    except OSError as error:
        return type(error), error.args


@pytest.mark.parametrize("name", CALLS)
def test_answer_is_that_of_the_original(name: str) -> None:
    expected = outcome(CALLS[name])
    lissom.hook()
    try:
        assert outcome(CALLS[name]) == expected
    finally:
        lissom.unhook()


@pytest.mark.parametrize("name", [name for name in CALLS if name != "getfqdn"])
def test_resolution_by_name_lets_others_run(hooked: None, name: str) -> None:
    order: list[str] = []
    lissom.spawn(order.append, "ran")
    outcome(CALLS[name])
    assert order == ["ran"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "", None, b"127.0.0.2"])
def test_numeric_hosts_do_not_switch(hooked: None, host: object) -> None:
    order: list[str] = []
    lissom.spawn(order.append, "switched")
    outcome(lambda: socket.getaddrinfo(host, 80))
    assert order == []
    lissom.run()


@pytest.mark.parametrize(
    "call",
    [
        "getaddrinfo('name.invalid.', 80, flags=AI_NUMERICHOST)",
        "getaddrinfo('localhost', 'no such service')",
        "getaddrinfo('a\\0b', 80)",
        "getaddrinfo('x' * 100, 80)",
        "getaddrinfo(5, 80)",
        "getaddrinfo()",
        "gethostbyname(5)",
        "getnameinfo('x', 0)",
    ],
)
def test_errors_are_those_of_the_original(call: str) -> None:
    def outcome() -> tuple[type, tuple[object, ...]]:
        with pytest.raises((OSError, TypeError, ValueError)) as caught:
            eval(call, vars(socket))
        return caught.type, caught.value.args

    expected = outcome()
    lissom.hook()
    try:
        assert outcome() == expected
    finally:
        lissom.unhook()


def test_resolution_in_a_real_thread_is_the_original(hooked: None) -> None:
    assert lissom.offload(socket.gethostbyname, "localhost") == "127.0.0.1"


def test_many_resolutions_at_once(hooked: None) -> None:
    results = []
    threads = [threading.Thread(target=lambda: results.append(socket.gethostbyname("localhost"))) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == ["127.0.0.1"] * 50


def test_datagram_to_a_name_is_resolved(hooked: None) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        sender.sendto(b"hello", ("localhost", receiver.getsockname()[1]))
        assert receiver.recv(10) == b"hello"
