"""Locks and the like of `lissom` without a hook: CPython's own tests of locks, and what tasklets add."""

from __future__ import annotations

import threading

import lissom
import pytest
from test import lock_tests


class TestLock(lock_tests.LockTests):
    locktype = staticmethod(lissom.Lock)


class TestRLock(lock_tests.RLockTests):
    locktype = staticmethod(lissom.RLock)


class TestEvent(lock_tests.EventTests):
    eventtype = staticmethod(lissom.Event)


class TestCondition(lock_tests.ConditionTests):
    condtype = staticmethod(lissom.Condition)


class TestSemaphore(lock_tests.SemaphoreTests):
    semtype = staticmethod(lissom.Semaphore)


class TestBoundedSemaphore(lock_tests.BoundedSemaphoreTests):
    semtype = staticmethod(lissom.BoundedSemaphore)


class TestBarrier(lock_tests.BarrierTests):
    barriertype = staticmethod(lissom.Barrier)


def test_lock_is_given_to_the_waiters_in_their_order() -> None:
    lock = lissom.Lock()
    order: list[int] = []

    def work(number: int) -> None:
        with lock:
            order.append(number)
            lissom.schedule()

    lock.acquire()
    tasklets = [lissom.spawn(work, number) for number in range(5)]
    lissom.schedule()
    lock.release()
    assert lock.locked(), "handed over, not free for whoever comes"
    assert not lock.acquire(blocking=False)
    for tasklet in tasklets:
        lissom.join(tasklet)
    assert order == [0, 1, 2, 3, 4]
    assert not lock.locked()


@pytest.mark.parametrize("others", [0, 1])
def test_lock_is_not_lost_when_its_new_owner_is_killed_at_once(others: int) -> None:
    lock = lissom.Lock()
    lock.acquire()
    victim = lissom.spawn(lock.acquire)
    rest = [lissom.spawn(lock.acquire) for _ in range(others)]
    lissom.schedule()
    lock.release()  # the victim has it now, and has not run yet
    victim.kill(pending=True)
    lissom.run()
    if others:
        assert lock.locked()
        assert lissom.join(rest[0]) is True
        lock.release()
    assert not lock.locked()


def test_lock_that_times_out_leaves_the_queue() -> None:
    lock = lissom.Lock()
    lock.acquire()
    waiter = lissom.spawn(lock.acquire, True, 0.01)
    assert lissom.join(waiter) is False
    lock.release()
    assert not lock.locked()


@pytest.mark.parametrize("arguments", [{"blocking": False, "timeout": 1}, {"timeout": -2}])
def test_lock_refuses_a_timeout_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="timeout"):
        lissom.Lock().acquire(**arguments)  # type: ignore[arg-type]


def test_killed_tasklet_gives_the_lock_of_a_condition_back() -> None:
    condition = lissom.Condition()

    def work() -> None:
        with condition:
            condition.wait()

    tasklet = lissom.spawn(work)
    lissom.schedule()
    tasklet.kill()
    with condition:
        condition.notify()


def test_notification_of_a_killed_tasklet_goes_to_the_next() -> None:
    condition = lissom.Condition()
    woken: list[int] = []

    def work(number: int) -> None:
        with condition:
            condition.wait()
            woken.append(number)

    tasklets = [lissom.spawn(work, number) for number in range(2)]
    lissom.schedule()
    with condition:
        condition.notify()
        tasklets[0].kill(pending=True)
    lissom.run()
    assert woken == [1]


def test_semaphore_limits_who_runs() -> None:
    semaphore = lissom.Semaphore(2)
    running = most = 0

    def work() -> None:
        nonlocal running, most
        with semaphore:
            running += 1
            most = max(most, running)
            lissom.sleep(0.001)
            running -= 1

    for tasklet in [lissom.spawn(work) for _ in range(6)]:
        lissom.join(tasklet)
    assert most == 2


def test_event_wakes_tasklets_of_another_thread() -> None:
    event = lissom.Event()
    seen: list[bool] = []

    def other() -> None:
        tasklets = [lissom.spawn(lambda: seen.append(event.wait(10))) for _ in range(3)]
        for tasklet in tasklets:
            lissom.join(tasklet)

    thread = threading.Thread(target=other)
    thread.start()
    lissom.sleep(0.01)
    event.set()
    thread.join()
    assert seen == [True] * 3
    assert isinstance(event, threading.Event)


def test_lock_counts_exactly_across_threads() -> None:
    lock = lissom.Lock()
    total = 0

    def work() -> None:
        nonlocal total
        for _ in range(200):
            with lock:
                value = total
                lissom.schedule()
                total = value + 1

    def other() -> None:
        for tasklet in [lissom.spawn(work) for _ in range(3)]:
            lissom.join(tasklet)

    threads = [threading.Thread(target=other) for _ in range(2)]
    for thread in threads:
        thread.start()
    other()
    for thread in threads:
        thread.join()
    assert total == 9 * 200


class TestLocal:
    def test_every_tasklet_has_its_own_values(self) -> None:
        storage = lissom.local()
        storage.name = "main"

        def work(name: str) -> str:
            assert not hasattr(storage, "name")
            storage.name = name
            lissom.schedule()
            return str(storage.name)

        tasklets = [lissom.spawn(work, name) for name in "ab"]
        assert [lissom.join(tasklet) for tasklet in tasklets] == ["a", "b"]
        assert storage.name == "main"
        assert storage.__dict__ == {"name": "main"}
        del storage.name
        with pytest.raises(AttributeError, match="name"):
            _ = storage.name

    def test_init_of_a_subclass_is_called_in_each_tasklet(self) -> None:
        class Numbered(lissom.local):
            def __init__(self, start: int) -> None:
                self.number = start

            @property
            def double(self) -> int:
                return 2 * self.number

        storage = Numbered(5)
        storage.number = 7

        def work() -> int:
            storage.number += 1
            return storage.double

        assert lissom.join(lissom.spawn(work)) == 12
        assert storage.double == 14

    def test_arguments_without_init_are_refused(self) -> None:
        with pytest.raises(TypeError, match="Initialization arguments"):
            lissom.local(1)

    def test_values_go_with_their_tasklet(self) -> None:
        import gc
        import weakref

        class Value:
            pass

        storage = lissom.local()
        seen: list[weakref.ref[Value]] = []

        def work() -> None:
            storage.value = Value()
            seen.append(weakref.ref(storage.value))

        lissom.join(lissom.spawn(work))
        gc.collect()
        assert seen[0]() is None
