"""Name resolution happens in a blocking thread; numeric hosts never leave the tasklet."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script

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


SLOW_RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>

typedef int resolver(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* Answers for names when the file exists that ANSWER names. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    resolver *original = (resolver *)dlsym(RTLD_NEXT, "getaddrinfo");
    while (host[0] == 'l' && access(getenv("ANSWER"), F_OK) != 0)
        usleep(1000);
    return original(host, service, hints, found);
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="the resolver that answers late is built with cc")
def test_thousand_look_ups_without_an_answer_hold_up_nothing_else(script: Script, tmp_path: Path) -> None:
    source, library = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(SLOW_RESOLVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    done = script(
        """
        import os, pathlib, socket, lissom
        look_ups = [lissom.spawn(socket.getaddrinfo, "localhost", 80) for _ in range(1000)]
        lissom.schedule()
        assert not any(look_up is None or not look_up.alive for look_up in look_ups)
        # Addresses, other calls, files: none of them waits for a name.
        assert socket.getaddrinfo("127.0.0.1", 80) and socket.getaddrinfo("::1", 80)
        assert lissom.offload(int, "7") == 7
        path = pathlib.Path(os.environ["ANSWER"])
        with (path.parent / "file").open("wb") as file:
            os.fsync(file.fileno())
        try:
            with lissom.timeout(0.01):
                socket.getaddrinfo("localhost", 80)
        except TimeoutError:
            print("timed out")
        look_ups.pop().kill()
        path.touch()
        print(len({str(lissom.join(look_up)) for look_up in look_ups}))
        """,
        hooked=True,
        env={"LD_PRELOAD": str(library), "ANSWER": str(tmp_path / "answer")},
    )
    assert done.stdout == "timed out\n1\n"
