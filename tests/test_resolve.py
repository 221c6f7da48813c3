"""Name resolution happens in a blocking thread; numeric hosts never leave the tasklet."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from functools import partial
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script

CALLS: dict[str, Callable[[], object]] = {
    "getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "getaddrinfo of nothing": lambda: socket.getaddrinfo("", 80),  # which is looked up, in contrast to None
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


ADDRESSES = ["127.0.0.1", "127.1", "0x7f.1", "2130706433"]
ADDRESSES6 = ["::1", "::ffff:127.0.0.1", "fe80::1%lo", "fe80::1%1", "fe80::1%no-such-interface"]
NUMERIC: dict[str, Callable[[], object]] = {
    **{f"getaddrinfo {host!r}": partial(socket.getaddrinfo, host, 80) for host in [*ADDRESSES, *ADDRESSES6, None]},
    **{f"gethostbyname {host!r}": partial(socket.gethostbyname, host) for host in [*ADDRESSES, "", "<broadcast>"]},
    "gethostbyname_ex": partial(socket.gethostbyname_ex, "127.0.0.1"),
    "bytes": partial(socket.getaddrinfo, b"127.0.0.2", 80),
    "port in digits": partial(socket.getaddrinfo, "127.0.0.1", "80"),
    "port in bytes": partial(socket.getaddrinfo, "127.0.0.1", b"80"),
    "no port": partial(socket.getaddrinfo, "127.0.0.1", None),
    "AI_NUMERICHOST": partial(socket.getaddrinfo, "localhost", 80, flags=socket.AI_NUMERICHOST),
    "AI_NUMERICSERV": partial(socket.getaddrinfo, "127.0.0.1", "http", flags=socket.AI_NUMERICSERV),
    "getnameinfo": partial(socket.getnameinfo, ("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
}


@pytest.mark.parametrize("name", NUMERIC)
def test_what_asks_nobody_does_not_switch_and_answers_as_the_original(name: str) -> None:
    expected = outcome(NUMERIC[name])
    lissom.hook()
    try:
        order: list[str] = []
        lissom.spawn(order.append, "switched")
        assert outcome(NUMERIC[name]) == expected
        assert order == []
        lissom.run()
    finally:
        lissom.unhook()


@pytest.mark.parametrize("service", ["http", b"https", "no such service"])
def test_names_of_services_let_others_run(hooked: None, service: str | bytes) -> None:
    order: list[str] = []
    lissom.spawn(order.append, "ran")
    outcome(lambda: socket.getaddrinfo("127.0.0.1", service, type=socket.SOCK_STREAM))
    assert order == ["ran"]


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


# ---- a resolver that does not answer ---------------------------------------------------------------------------------

# Stands before the C library's: the name "slow" says that it has been asked, by a byte to one pipe, and is found when a
# byte comes through another.
RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*original)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    original = dlsym(RTLD_NEXT, "getaddrinfo");
    if (host && strcmp(host, "slow") == 0) {
        char byte = 0;
        if (write(atoi(getenv("ASKED")), &byte, 1) != 1 || read(atoi(getenv("ANSWER")), &byte, 1) != 1)
            return EAI_FAIL;
        host = "127.0.0.1";
    }
    return original(host, port, hints, found);
}
"""

PREPARED = """
    import lissom, os, socket, tempfile

    asked, ask = os.pipe()
    answered, answer = os.pipe()
    os.environ.update(ASKED=str(ask), ANSWER=str(answered))

    def look_up():
        return socket.getaddrinfo("slow", 80, type=socket.SOCK_STREAM)[0][4]
"""


@pytest.fixture
def slow(script: Script, tmp_path: Path) -> Callable[[str], str]:
    """A function that runs a script in which looking up "slow" waits for a byte in the pipe `answer`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build a slow resolver with")
    library = tmp_path / "resolver.so"
    words = [compiler, "-shared", "-fPIC", "-o", str(library), "-xc", "-", "-ldl"]
    subprocess.run(words, input=RESOLVER, text=True, check=True)
    # The interpreter's own debug mode is left out, as it opens what the library must not be asked for.
    return lambda source: script(PREPARED + source, hooked=True, env={"LD_PRELOAD": str(library)}).stdout


def test_resolver_that_does_not_answer_keeps_nobody_else_waiting(slow: Callable[[str], str]) -> None:
    output = slow(
        """
    look_ups = [lissom.spawn(look_up) for _ in range(1000)]
    os.read(asked, 1)  # some have begun
    with tempfile.TemporaryFile() as file:
        file.write(b"written")
        file.flush()
        os.fsync(file.fileno())
        with tempfile.TemporaryFile() as copy:
            print(os.copy_file_range(file.fileno(), copy.fileno(), 7, 0))
    print(lissom.offload(pow, 2, 10))
    print(socket.getaddrinfo("127.0.0.1", 80)[0][4], any(not look_up.blocked for look_up in look_ups))
    lissom.spawn(os.write, answer, bytes(1000))
    print({lissom.join(look_up) for look_up in look_ups})
        """
    )
    assert output.splitlines() == ["7", "1024", "('127.0.0.1', 80) False", "{('127.0.0.1', 80)}"]


def test_timeout_and_kill_end_look_ups_and_those_not_begun_ask_nobody(slow: Callable[[str], str]) -> None:
    output = slow(
        """
    def impatient():
        try:
            with lissom.timeout(0.01):
                look_up()
        except TimeoutError:
            return "timed out"

    look_ups = [lissom.spawn(impatient) for _ in range(500)]
    print({lissom.join(look_up) for look_up in look_ups})
    more = [lissom.spawn(look_up) for _ in range(500)]
    lissom.schedule()
    for look_up in more:
        look_up.kill()
    # The last to be asked: when it is answered, all before it have been.
    last = lissom.spawn(socket.getaddrinfo, "slow", 80)
    os.write(answer, bytes(1000))
    lissom.join(last)
    os.close(ask)
    print(len(os.read(asked, 2000)) <= 33)
        """
    )
    assert output.splitlines() == ["{'timed out'}", "True"]


def test_connecting_to_a_name_waits_for_the_resolver_and_lets_others_run(slow: Callable[[str], str]) -> None:
    output = slow(
        """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def connect():
            with socket.socket() as client:
                client.connect(("slow", listener.getsockname()[1]))
                return client.getpeername()[0]
        client = lissom.spawn(connect)
        os.read(asked, 1)
        print(client.blocked)
        os.write(answer, b"1")
        print(lissom.join(client))
        """
    )
    assert output.splitlines() == ["True", "127.0.0.1"]
