"""Locks and what is built from them, between tasklets that stand for threads."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAKERS = [threading.Lock, threading.RLock]


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


def start(*functions: Callable[[], object]) -> list[threading.Thread]:
    """Start a thread for each function."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    """Join all, which must succeed."""
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


# ---- Lock and RLock --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", MAKERS)
def test_lock_excludes(maker: Callable[[], threading.Lock]) -> None:
    lock, inside, most = maker(), [0], [0]

    def work() -> None:
        for _ in range(20):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    join(start(*[work] * 10))
    assert most == [1]


@pytest.mark.parametrize("maker", MAKERS)
def test_lock_is_given_in_the_order_of_waiting(maker: Callable[[], threading.Lock]) -> None:
    lock, order = maker(), []

    def work(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        threads = start(*[lambda number=number: work(number) for number in range(5)])
        time.sleep(0)
        assert order == []
    join(threads)
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("maker", MAKERS)
def test_acquire_without_blocking_or_with_a_timeout_returns_false(maker: Callable[[], threading.Lock]) -> None:
    lock = maker()
    results = []

    def work() -> None:
        results.append(lock.acquire(blocking=False))
        results.append(lock.acquire(False))
        results.append(lock.acquire(timeout=0))
        start = time.monotonic()
        results.append(lock.acquire(True, 0.01))
        results.append(time.monotonic() - start >= 0.01)

    with lock:
        join(start(work))
    assert results == [False, False, False, False, True]


@pytest.mark.parametrize("maker", MAKERS)
def test_acquire_with_a_timeout_gets_a_lock_that_is_released_in_time(maker: Callable[[], threading.Lock]) -> None:
    lock, results = maker(), []
    with lock:
        threads = start(lambda: results.append(lock.acquire(timeout=30)))
        time.sleep(0)
    join(threads)
    assert results == [True]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("arguments", "error"),
    [((False, 1), ValueError), ((True, -2), ValueError), ((True, 1e30), OverflowError), (("x", "y"), TypeError)],
)
def test_wrong_arguments_of_acquire_raise(
    maker: Callable[[], threading.Lock], arguments: tuple[object, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        maker().acquire(*arguments)


@pytest.mark.parametrize("maker", MAKERS)
def test_release_of_a_free_lock_raises(maker: Callable[[], threading.Lock]) -> None:
    with pytest.raises(RuntimeError):
        maker().release()


def test_lock_may_be_released_by_another_tasklet() -> None:
    lock = threading.Lock()
    lock.acquire()
    join(start(lock.release))
    assert not lock.locked()


def test_rlock_may_be_acquired_again_by_its_owner_alone() -> None:
    lock, results = threading.RLock(), []

    def work() -> None:
        results.append(lock.acquire(blocking=False))
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            lock.release()

    with lock, lock:
        join(start(work))
    join(start(lambda: results.append(lock.acquire(blocking=False) and lock.release())))
    assert results == [False, None]


def test_rlock_is_released_as_often_as_acquired() -> None:
    lock, results = threading.RLock(), []
    for _ in range(3):
        lock.acquire()
    for _ in range(3):
        join(start(lambda: results.append(lock.acquire(blocking=False))))
        lock.release()
    assert results == [False, False, False]
    with pytest.raises(RuntimeError):
        lock.release()


@pytest.mark.parametrize("maker", MAKERS)
def test_killed_waiter_does_not_swallow_the_release(maker: Callable[[], threading.Lock]) -> None:
    lock, results = maker(), []
    lock.acquire()
    first, second = (lissom.spawn(lambda name=name: (lock.acquire(), results.append(name))) for name in "ab")
    lissom.schedule()
    lock.release()  # wakes the first
    first.kill()
    lissom.run()
    assert results == ["b"]
    assert not second.alive


def test_timeout_round_a_wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    with pytest.raises(TimeoutError), lissom.timeout(0.01):
        lock.acquire()
    lock.release()
    assert lock.acquire(blocking=False)


# ---- Condition, Event, Semaphore, Barrier ----------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [None, *MAKERS])
def test_condition_notify_wakes_one_and_notify_all_the_rest(lock: Callable[[], threading.Lock] | None) -> None:
    condition, woken = threading.Condition(lock and lock()), []

    def wait(number: int) -> None:
        with condition:
            assert condition.wait(30)
            woken.append(number)

    threads = start(*[lambda number=number: wait(number) for number in range(5)])
    time.sleep(0)
    with condition:
        condition.notify()
    threads[0].join(30)
    assert woken == [0]
    with condition:
        condition.notify_all()
    join(threads)
    assert sorted(woken) == [0, 1, 2, 3, 4]


def test_condition_wait_gives_a_recursive_lock_up_and_takes_it_back() -> None:
    condition, order = threading.Condition(), []

    def wait() -> None:
        with condition, condition:
            order.append("waits")
            condition.wait()
            order.append("woken")
            condition.notify()  # raises unless the lock is held

    threads = start(wait)
    time.sleep(0)
    with condition:
        order.append("notifies")
        condition.notify()
    join(threads)
    assert order == ["waits", "notifies", "woken"]


def test_condition_wait_with_a_timeout_returns_false_and_holds_the_lock() -> None:
    condition = threading.Condition()
    with condition:
        assert condition.wait(0.005) is False
        assert condition.wait_for(lambda: False, 0.005) is False
        condition.notify()


def test_condition_without_its_lock_raises() -> None:
    condition = threading.Condition()
    with pytest.raises(RuntimeError, match="un-acquired"):
        condition.wait()
    with pytest.raises(RuntimeError, match="un-acquired"):
        condition.notify()


def test_event_wakes_all() -> None:
    event, woken = threading.Event(), []
    threads = start(*[lambda: woken.append(event.wait())] * 50)
    time.sleep(0)
    assert woken == []
    event.set()
    join(threads)
    assert woken == [True] * 50


def test_event_wait_with_a_timeout_returns_false() -> None:
    event = threading.Event()
    assert event.wait(0.005) is False
    event.set()
    assert event.wait(0) is True


def test_semaphore_lets_as_many_in_as_it_counts() -> None:
    semaphore, inside, most = threading.BoundedSemaphore(3), [0], [0]

    def work() -> None:
        with semaphore:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            inside[0] -= 1

    join(start(*[work] * 20))
    assert most == [3]
    with pytest.raises(ValueError, match="released too many"):
        semaphore.release()


def test_barrier_lets_all_go_together() -> None:
    order: list[str] = []
    barrier = threading.Barrier(4, action=lambda: order.append("all here"))

    def work() -> None:
        order.append("comes")
        barrier.wait(30)
        order.append("goes")

    join(start(*[work] * 4))
    assert order == ["comes"] * 4 + ["all here"] + ["goes"] * 4


def test_barrier_breaks_at_a_timeout() -> None:
    barrier = threading.Barrier(2)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.005)
    assert barrier.broken


def test_timer_runs_and_can_be_cancelled() -> None:
    ran: list[str] = []
    timer, cancelled = threading.Timer(0.005, ran.append, ["ran"]), threading.Timer(60, ran.append, ["never"])
    timer.start()
    cancelled.start()
    cancelled.cancel()
    join([timer, cancelled])
    assert ran == ["ran"]
