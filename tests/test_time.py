"""Waiting for time: `lissom.sleep`, and `lissom.timeout` round anything that waits."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def hooked() -> Iterator[None]:
    """Hook for the test."""
    lissom.hook()
    yield
    lissom.unhook()


def elapsed(since: float) -> float:
    return time.monotonic() - since


# ---- sleep -----------------------------------------------------------------------------------------------------------


def test_sleep_takes_at_least_as_long_as_asked() -> None:
    start = time.monotonic()
    lissom.sleep(0.02)
    assert 0.02 <= elapsed(start) < 5


def test_sleeping_tasklets_sleep_at_the_same_time() -> None:
    start = time.monotonic()
    tasklets = [lissom.spawn(lissom.sleep, 0.1) for _ in range(100)]
    for tasklet in tasklets:
        lissom.join(tasklet)
    assert elapsed(start) < 5  # one after the other: 10 s


def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    order: list[int] = []

    def sleeper(number: int) -> None:
        lissom.sleep(number / 200)
        order.append(number)

    for number in (3, 1, 4, 2, 5):
        lissom.spawn(sleeper, number)
    lissom.run()
    assert order == [1, 2, 3, 4, 5]


def test_sleep_of_zero_lets_each_other_run_once() -> None:
    order: list[str] = []
    lissom.spawn(order.append, "a")
    lissom.spawn(order.append, "b")
    lissom.sleep(0)
    assert order == ["a", "b"]


@pytest.mark.parametrize("wrong", [-1, -0.001, float("nan")])
def test_sleep_of_a_wrong_number_raises_value_error(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"non-negative|NaN|number"):
        lissom.sleep(wrong)


@pytest.mark.parametrize("wrong", ["1", None, object()])
def test_sleep_of_no_number_raises_type_error(wrong: object) -> None:
    with pytest.raises(TypeError):
        lissom.sleep(wrong)


def test_sleep_accepts_very_long_times() -> None:
    sleepers = [lissom.spawn(lissom.sleep, seconds) for seconds in (1e9, 1e15, 10**12)]
    lissom.schedule()
    assert all(sleeper.blocked for sleeper in sleepers)
    for sleeper in sleepers:
        sleeper.kill()


# ---- timeout ---------------------------------------------------------------------------------------------------------


def test_timeout_raises_where_the_tasklet_waits_and_is_expired() -> None:
    with pytest.raises(TimeoutError, match=r"timed out after 0\.01 seconds"), lissom.timeout(0.01) as limit:
        lissom.sleep(60)
    assert limit.expired


def test_timeout_that_is_not_needed_leaves_nothing_behind() -> None:
    with lissom.timeout(0.01) as limit:
        lissom.sleep(0)
    assert not limit.expired
    lissom.sleep(0.03)


def test_timeout_of_none_never_expires() -> None:
    with lissom.timeout(None) as limit:
        lissom.sleep(0.001)
    assert not limit.expired


def test_timeout_of_zero_expires_at_the_first_wait() -> None:
    with pytest.raises(TimeoutError), lissom.timeout(0):
        lissom.sleep(60)


def test_inner_timeout_leaves_the_outer_in_force() -> None:
    with pytest.raises(TimeoutError, match=r"0\.04"), lissom.timeout(0.04) as outer:
        with pytest.raises(TimeoutError, match=r"0\.01"), lissom.timeout(0.01) as inner:
            lissom.sleep(60)
        assert inner.expired
        lissom.sleep(60)
    assert outer.expired


def test_outer_timeout_passes_through_the_inner_block() -> None:
    with pytest.raises(TimeoutError, match=r"0\.01"), lissom.timeout(0.01) as outer, lissom.timeout(60) as inner:
        lissom.sleep(60)
    assert (outer.expired, inner.expired) == (True, False)


def test_timeout_error_of_somebody_else_is_not_taken_for_an_expiry() -> None:
    with pytest.raises(TimeoutError, match="other"), lissom.timeout(60) as limit:
        raise TimeoutError("other")
    assert not limit.expired


def test_timeout_is_that_of_its_tasklet_alone() -> None:
    def limited() -> str:
        try:
            with lissom.timeout(0.01):
                lissom.sleep(60)
        except TimeoutError:
            return "expired"
        return "not expired"

    def free() -> str:
        lissom.sleep(0.03)
        return "slept"

    tasklets = [lissom.spawn(limited), lissom.spawn(free)]
    assert [lissom.join(tasklet) for tasklet in tasklets] == ["expired", "slept"]


def test_timeout_ends_with_its_block_when_the_tasklet_is_killed() -> None:
    def limited() -> None:
        with lissom.timeout(0.01):
            lissom.sleep(60)

    tasklet = lissom.spawn(limited)
    lissom.schedule()
    tasklet.kill()
    lissom.sleep(0.03)
    assert lissom.join(tasklet) is None


def test_timeout_object_cannot_be_used_again() -> None:
    limit = lissom.timeout(1)
    with limit:
        pass
    with pytest.raises(RuntimeError, match="once"):
        limit.__enter__()


@pytest.mark.parametrize("wrong", ["1", object()])
def test_timeout_of_no_number_raises_type_error(wrong: object) -> None:
    with pytest.raises(TypeError):
        lissom.timeout(wrong).__enter__()


@pytest.mark.parametrize("name", ["join", "channel", "schedule_remove", "offload", "run"])
def test_timeout_ends_every_kind_of_wait(name: str) -> None:
    sleeper = lissom.spawn(lissom.sleep, 60)
    waits = {
        "join": lambda: lissom.join(sleeper),
        "channel": lambda: lissom.channel().receive(),
        "schedule_remove": lissom.schedule_remove,
        "offload": lambda: lissom.offload(time.sleep, 0.1),
        "run": lissom.run,
    }
    with pytest.raises(TimeoutError), lissom.timeout(0.01):
        waits[name]()
    sleeper.kill()


def test_timeout_inside_a_busy_tasklet_expires_at_its_next_switch() -> None:
    with pytest.raises(TimeoutError), lissom.timeout(0.001):
        start = time.monotonic()
        while elapsed(start) < 0.01:
            pass
        while True:
            lissom.schedule()


def test_many_timeouts_at_once() -> None:
    expired = []

    def limited(number: int) -> None:
        try:
            with lissom.timeout(0.001 + number % 10 / 1000):
                lissom.sleep(60)
        except TimeoutError:
            expired.append(number)

    tasklets = [lissom.spawn(limited, number) for number in range(1000)]
    for tasklet in tasklets:
        lissom.join(tasklet)
    assert sorted(expired) == list(range(1000))


def test_timeout_in_the_middle_of_a_write_is_not_lost(hooked: None) -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(TimeoutError, match="timed out after"), lissom.timeout(0.05):
            os.write(write, bytes(1 << 20))
    finally:
        os.close(read)
        os.close(write)


def test_timeout_in_the_middle_of_a_receive_of_everything_is_not_lost(hooked: None) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.send(bytes(10))
        with pytest.raises(TimeoutError, match="timed out after"), lissom.timeout(0.05):
            right.recv(100, socket.MSG_WAITALL)
