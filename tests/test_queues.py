"""Queues between tasklets, and pools on top of them."""

from __future__ import annotations

import concurrent.futures
import gc
import queue
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAKERS: list[Callable[[], queue.Queue[int]]] = [queue.SimpleQueue, queue.Queue, queue.LifoQueue, queue.PriorityQueue]


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


@pytest.mark.parametrize("maker", MAKERS)
def test_get_waits_for_an_item(maker: Callable[[], queue.Queue[int]]) -> None:
    items = maker()
    getter = lissom.spawn(items.get)
    lissom.schedule()
    assert getter.blocked
    items.put(5)
    assert lissom.join(getter) == 5


@pytest.mark.parametrize("maker", MAKERS)
def test_get_of_what_is_there_does_not_switch(maker: Callable[[], queue.Queue[int]]) -> None:
    items, order = maker(), []
    items.put(1)
    lissom.spawn(order.append, "switched")
    assert items.get() == 1
    assert order == []
    lissom.run()


@pytest.mark.parametrize("maker", MAKERS)
def test_get_that_may_not_wait_raises_empty(maker: Callable[[], queue.Queue[int]]) -> None:
    items = maker()
    for arguments in ({"block": False}, {"timeout": 0.005}, {"block": True, "timeout": 0}):
        with pytest.raises(queue.Empty):
            items.get(**arguments)
    with pytest.raises(queue.Empty):
        items.get_nowait()
    with pytest.raises(ValueError, match="non-negative"):
        items.get(timeout=-1)


@pytest.mark.parametrize("maker", MAKERS)
def test_many_producers_and_consumers_lose_nothing(maker: Callable[[], queue.Queue[int]]) -> None:
    items, received = maker(), []

    def produce(start: int) -> None:
        for number in range(start, start + 50):
            items.put(number)
            if number % 7 == 0:
                time.sleep(0)

    def consume() -> None:
        for _ in range(50):
            received.append(items.get())

    threads = [threading.Thread(target=consume) for _ in range(10)]
    threads += [threading.Thread(target=produce, args=[start]) for start in range(0, 500, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(received) == list(range(500))


def test_put_into_a_full_queue_waits_for_room() -> None:
    items: queue.Queue[int] = queue.Queue(1)
    items.put(1)
    putter = lissom.spawn(items.put, 2)
    lissom.schedule()
    assert putter.blocked
    assert (items.get(), items.get()) == (1, 2)
    lissom.join(putter)
    items.put(3)
    with pytest.raises(queue.Full):
        items.put(4, timeout=0.005)


def test_queue_join_waits_until_every_task_is_done() -> None:
    items: queue.Queue[int] = queue.Queue()
    done = []

    def work() -> None:
        while (number := items.get()) >= 0:
            time.sleep(0.001)
            done.append(number)
            items.task_done()

    worker = threading.Thread(target=work)
    worker.start()
    for number in range(5):
        items.put(number)
    items.join()
    assert done == [0, 1, 2, 3, 4]
    items.put(-1)
    worker.join(30)


def test_simple_queue_serves_waiters_in_their_order() -> None:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    getters = [lissom.spawn(items.get) for _ in range(5)]
    lissom.schedule()
    for number in range(5):
        items.put(number)
    assert [lissom.join(getter) for getter in getters] == [0, 1, 2, 3, 4]


def test_killed_getter_does_not_swallow_an_item() -> None:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    first, second = lissom.spawn(items.get), lissom.spawn(items.get)
    lissom.schedule()
    items.put(1)  # wakes the first
    first.kill()
    with lissom.timeout(30):
        assert lissom.join(second) == 1


def test_simple_queue_can_be_subclassed_and_put_from_a_finaliser() -> None:
    class Mail(queue.SimpleQueue):  # type: ignore[type-arg]
        pass

    class Thing:
        pass

    mail, thing = Mail(), Thing()
    weakref.finalize(thing, mail.put, "collected")
    getter = lissom.spawn(mail.get)
    lissom.schedule()
    del thing
    gc.collect()
    with lissom.timeout(30):
        assert lissom.join(getter) == "collected"


def test_thread_pool_runs_its_work_as_tasklets() -> None:
    main = Path("/proc/thread-self").readlink()
    together = threading.Barrier(20)

    def work(number: int) -> tuple[int, bool]:
        together.wait(30)
        return number, Path("/proc/thread-self").readlink() == main

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(work, range(20))) == [(number, True) for number in range(20)]


def test_futures_carry_exceptions_and_time_out() -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        failing = pool.submit(lambda: 1 // 0)
        slow = pool.submit(time.sleep, 0.03)
        with pytest.raises(ZeroDivisionError):
            failing.result(30)
        with pytest.raises(TimeoutError):
            slow.result(0.001)
        done, _ = concurrent.futures.wait([failing, slow], timeout=30)
        assert done == {failing, slow}
