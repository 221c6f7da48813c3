"""Handlers that wait themselves, while the main tasklet waits."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def handler_that_waits() -> Iterator[list[int]]:
    """Hook, and handle SIGUSR1 by sleeping."""
    handled: list[int] = []

    def handler(number: int, frame: object) -> None:
        time.sleep(0.02)
        handled.append(number)

    lissom.hook()
    previous = signal.signal(signal.SIGUSR1, handler)
    yield handled
    signal.signal(signal.SIGUSR1, previous)
    lissom.unhook()
    assert handled


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_receive_with_a_timeout_goes_on_waiting() -> None:
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(5)
        lissom.spawn(interrupt)
        threading.Timer(0.1, left.send, [b"x"]).start()
        assert right.recv(1) == b"x"


def test_lock_goes_on_being_waited_for() -> None:
    lock = threading.Lock()
    lock.acquire()
    lissom.spawn(interrupt)
    threading.Timer(0.1, lock.release).start()
    assert lock.acquire(timeout=5)


def test_sleep_is_not_cut_short() -> None:
    lissom.spawn(interrupt)
    start = time.monotonic()
    time.sleep(0.1)
    assert time.monotonic() - start >= 0.1


def test_channel_goes_on_being_waited_for() -> None:
    channel = lissom.channel()
    lissom.spawn(interrupt)

    def send_later() -> None:
        time.sleep(0.1)
        channel.send("late")

    lissom.spawn(send_later)
    assert channel.receive() == "late"


def test_offloaded_call_goes_on_being_waited_for() -> None:
    lissom.spawn(interrupt)
    release = threading.Event()
    timer = threading.Timer(0.1, release.set)
    timer.start()
    assert lissom.offload(sum, [1, 2]) == 3
    timer.join()


def test_signal_that_came_before_the_wait_is_handled_first() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.send(b"x")
        interrupt()
        assert right.recv(1) == b"x"
        time.sleep(0.001)
