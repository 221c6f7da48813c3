"""`select.select`, `select.poll`, `select.epoll`, and `selectors` on top of them."""

from __future__ import annotations

import os
import select
import selectors
import socket
import time
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Wait = Callable[[int, int, float | None], list[int]]

READ, WRITE = select.POLLIN, select.POLLOUT


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


def by_select(fd: int, events: int, timeout: float | None) -> list[int]:
    lists = [[fd] if events & READ else [], [fd] if events & WRITE else []]
    readable, writable, _ = select.select(*lists, [], *(() if timeout is None else (timeout,)))
    return [*([READ] if readable else []), *([WRITE] if writable else [])]


def by_poll(fd: int, events: int, timeout: float | None) -> list[int]:
    poll = select.poll()
    poll.register(fd, events)
    return [found for _, found in poll.poll(None if timeout is None else timeout * 1000)]


def by_epoll(fd: int, events: int, timeout: float | None) -> list[int]:
    with select.epoll() as epoll:
        epoll.register(fd, events)
        return [found for _, found in epoll.poll(timeout)]


def by_selector(fd: int, events: int, timeout: float | None) -> list[int]:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, (events & READ and selectors.EVENT_READ) or selectors.EVENT_WRITE)
        return [READ if found == selectors.EVENT_READ else WRITE for _, found in selector.select(timeout)]


WAITS: dict[str, Wait] = {"select": by_select, "poll": by_poll, "epoll": by_epoll, "selectors": by_selector}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_waits_until_readable(pair: tuple[socket.socket, socket.socket], wait: Wait) -> None:
    waiter = lissom.spawn(wait, pair[0].fileno(), READ, None)
    lissom.schedule()
    assert waiter.blocked
    pair[1].send(b"x")
    with lissom.timeout(30):
        assert lissom.join(waiter) == [READ]


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_waits_until_writable(pair: tuple[socket.socket, socket.socket], wait: Wait) -> None:
    pair[0].setblocking(False)
    filled = 0
    try:
        while True:
            filled += pair[0].send(b"x" * 65536)
    except BlockingIOError:
        pass
    waiter = lissom.spawn(wait, pair[0].fileno(), WRITE, None)
    lissom.schedule()
    assert waiter.blocked
    pair[1].recv(filled, socket.MSG_WAITALL)
    with lissom.timeout(30):
        assert lissom.join(waiter) == [WRITE]


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_what_is_ready_is_found_without_a_switch(pair: tuple[socket.socket, socket.socket], wait: Wait) -> None:
    order: list[str] = []
    lissom.spawn(order.append, "switched")
    assert wait(pair[0].fileno(), WRITE, None) == [WRITE]
    assert order == []
    lissom.run()


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("timeout", [0, 0.02])
def test_timeout_returns_nothing(pair: tuple[socket.socket, socket.socket], wait: Wait, timeout: float) -> None:
    start = time.monotonic()
    assert wait(pair[0].fileno(), READ, timeout) == []
    assert timeout * 0.9 <= time.monotonic() - start < timeout + 5


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_wait_is_level_triggered(pair: tuple[socket.socket, socket.socket], wait: Wait) -> None:
    pair[1].send(b"ab")
    for _ in range(3):
        assert wait(pair[0].fileno(), READ, 0.01) == [READ]
    pair[0].recv(1)
    assert wait(pair[0].fileno(), READ, 0.01) == [READ]
    pair[0].recv(1)
    assert wait(pair[0].fileno(), READ, 0.01) == []


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_end_of_the_peer_wakes(pair: tuple[socket.socket, socket.socket], wait: Wait) -> None:
    waiter = lissom.spawn(wait, pair[0].fileno(), READ, None)
    lissom.schedule()
    pair[1].close()
    with lissom.timeout(30):
        (found,) = lissom.join(waiter)
    assert found & READ


@pytest.mark.parametrize("wait", [by_select, by_poll, by_selector])
def test_works_on_pipes(wait: Wait) -> None:
    read, write = os.pipe()
    waiter = lissom.spawn(wait, read, READ, None)
    lissom.schedule()
    assert waiter.blocked
    os.write(write, b"x")
    with lissom.timeout(30):
        assert lissom.join(waiter) == [READ]
    os.close(read)
    os.close(write)


def test_regular_files_are_always_ready(tmp_path) -> None:
    with (tmp_path / "file").open("wb") as file:
        assert by_select(file.fileno(), READ, None) == [READ]
        assert by_poll(file.fileno(), READ, None) == [READ]


def test_select_takes_iterators_and_objects_with_fileno(pair: tuple[socket.socket, socket.socket]) -> None:
    waiter = lissom.spawn(select.select, iter([pair[0]]), (), set())
    lissom.schedule()
    pair[1].send(b"x")
    assert lissom.join(waiter) == ([pair[0]], [], [])


def test_select_of_nothing_is_a_sleep() -> None:
    order: list[str] = []
    lissom.spawn(order.append, "ran")
    assert select.select([], [], [], 0.005) == ([], [], [])
    assert order == ["ran"]


def test_urgent_data_wakes_the_third_list() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            waiter = lissom.spawn(select.select, [], [], [server])
            lissom.schedule()
            assert waiter.blocked
            client.send(b"!", socket.MSG_OOB)
            with lissom.timeout(30):
                assert lissom.join(waiter) == ([], [], [server])


@pytest.mark.parametrize(
    "call",
    [
        "select([5000], [], [], 0.01)",
        "select(['x'], [], [], 0.01)",
        "select([], [], [], -1)",
        "select([-1], [], [])",
        "select(5, [], [])",
        "select([], [], [], 'x')",
        "select([])",
        "poll().poll('x')",
        "epoll().poll('x')",
    ],
)
def test_wrong_arguments_raise_what_the_original_raises(call: str) -> None:
    def outcome() -> tuple[type, str]:
        with pytest.raises((OSError, TypeError, ValueError)) as caught:
            eval(call, vars(select))
        return caught.type, str(caught.value)

    hooked = outcome()
    lissom.unhook()
    assert outcome() == hooked


def test_poll_unregister_modify_and_bad_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    poll = select.poll()
    poll.register(pair[0], READ)
    poll.modify(pair[0], WRITE)
    assert poll.poll(5) == [(pair[0].fileno(), WRITE)]
    poll.unregister(pair[0])
    assert poll.poll(5) == []
    number = os.dup(pair[0].fileno())
    poll.register(number, READ)
    os.close(number)
    assert poll.poll() == [(number, select.POLLNVAL)]


def test_epoll_edge_triggered_and_maxevents(pair: tuple[socket.socket, socket.socket]) -> None:
    with select.epoll() as epoll:
        epoll.register(pair[0], select.EPOLLIN | select.EPOLLET)
        epoll.register(pair[1], select.EPOLLOUT)
        pair[1].send(b"x")
        assert len(epoll.poll(1, 1)) == 1
        assert len(epoll.poll(timeout=1, maxevents=10)) >= 1
        epoll.unregister(pair[1])
        epoll.poll(0.005)
        assert epoll.poll(0.005) == []
        with pytest.raises(ValueError, match="maxevents"):
            epoll.poll(0.005, 0)
    with pytest.raises(ValueError, match="closed"):
        epoll.poll(0.005)


def test_many_tasklets_wait_for_the_same_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    waiters = [lissom.spawn(wait, pair[0].fileno(), READ, None) for wait in WAITS.values() for _ in range(5)]
    lissom.schedule()
    pair[1].send(b"x")
    with lissom.timeout(30):
        assert all(lissom.join(waiter) == [READ] for waiter in waiters)


def test_wait_is_ended_by_kill_and_by_timeout(pair: tuple[socket.socket, socket.socket]) -> None:
    waiter = lissom.spawn(by_poll, pair[0].fileno(), READ, None)
    lissom.schedule()
    waiter.kill()
    assert not waiter.alive
    with pytest.raises(TimeoutError), lissom.timeout(0.005):
        by_select(pair[0].fileno(), READ, None)
