"""Hooking and unhooking: in place, independent of import order, and invisible to threads without a scheduler."""

from __future__ import annotations

import _socket
import _thread
import os
import queue
import select
import socket
import threading
import time
from time import sleep as early_sleep
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script

EARLY_LOCK = threading.Lock()
EARLY_RLOCK = threading.RLock()
EARLY_EVENT = threading.Event()
EARLY_CONDITION = threading.Condition()
EARLY_QUEUE: queue.Queue[int] = queue.Queue(1)
EARLY_SIMPLE_QUEUE: queue.SimpleQueue[int] = queue.SimpleQueue()
EARLY_SOCKETS = socket.socketpair()
EARLY_PIPE = os.pipe()
early_recv = EARLY_SOCKETS[0].recv
early_acquire = EARLY_LOCK.acquire


@pytest.fixture
def hooked() -> Iterator[None]:
    """The state of a program after `lissom.hook()`."""
    lissom.hook()
    yield
    lissom.unhook()


def others_run_during(wait: Callable[[], object], wake: Callable[[], object]) -> object:
    """Return what `wait` returns in a tasklet; `wake`, which ends the wait, is called by another one meanwhile."""
    waiter = lissom.spawn(wait)
    lissom.schedule()
    assert waiter.blocked, "it did not wait, or blocked the thread"
    wake()
    with lissom.timeout(30):
        return lissom.join(waiter)


# ---- hook and unhook -------------------------------------------------------------------------------------------------


def test_hook_and_unhook_are_known() -> None:
    assert not lissom.is_hooked()
    lissom.hook()
    assert lissom.is_hooked()
    lissom.unhook()
    assert not lissom.is_hooked()


def test_hook_twice_and_unhook_twice_are_as_once(hooked: None) -> None:
    lissom.hook()
    lissom.unhook()
    assert not lissom.is_hooked()
    lissom.unhook()
    lissom.hook()
    assert others_run_during(lambda: early_sleep(0.001), int) is None


def test_objects_stay_the_standard_librarys_own() -> None:
    things = {
        "time.sleep": time.sleep,
        "recv": socket.socket.recv,
        "_recv": _socket.socket.recv,
        "acquire": type(EARLY_LOCK).acquire,
        "select": select.select,
        "os.read": os.read,
        "start_new_thread": _thread.start_new_thread,
    }
    before = {name: (id(thing), type(thing), repr(thing), thing.__doc__) for name, thing in things.items()}
    lissom.hook()
    after = {name: (id(thing), type(thing), repr(thing), thing.__doc__) for name, thing in things.items()}
    lissom.unhook()
    assert after == before
    assert type(time.sleep).__name__ == "builtin_function_or_method"


def test_without_hooks_the_standard_library_blocks_the_thread_and_lissom_works() -> None:
    order: list[str] = []
    lissom.spawn(order.append, "ran")
    time.sleep(0.005)
    assert order == []
    lissom.sleep(0.001)
    assert order == ["ran"]


def test_unhook_restores_the_blocking_of_the_thread() -> None:
    lissom.hook()
    lissom.unhook()
    order: list[str] = []
    lissom.spawn(order.append, "ran")
    time.sleep(0.005)
    EARLY_EVENT.wait(0.005)
    select.select([], [], [], 0.005)
    assert order == []
    lissom.run()


def test_unhook_while_tasklets_wait_in_hooked_calls_lets_them_finish() -> None:
    lissom.hook()
    left, right = socket.socketpair()
    lock = threading.Lock()
    lock.acquire()
    waiters = [lissom.spawn(left.recv, 10), lissom.spawn(time.sleep, 0.01), lissom.spawn(lock.acquire)]
    lissom.schedule()
    lissom.unhook()
    right.send(b"data")
    with lissom.timeout(30):
        assert lissom.join(waiters[0]) == b"data"
        lissom.join(waiters[1])
        # The release goes to the original now, so it has to be made under the hook.
        lissom.hook()
        lock.release()
        assert lissom.join(waiters[2])
    lissom.unhook()
    left.close()
    right.close()


def test_thread_that_ends_after_unhook_takes_only_itself_away(script: Script) -> None:
    done = script(
        """
        import lissom, threading
        lissom.hook()
        local, go = threading.local(), lissom.channel()
        def work():
            local.value = "mine"
            ident = threading.get_ident()
            go.receive()
            print(threading.get_ident() == ident, local.value, threading.current_thread() is thread)
        thread = threading.Thread(target=work)
        thread.start()
        lissom.schedule()
        lissom.unhook()
        go.send(None)
        lissom.run()
        print(thread.is_alive(), thread in threading.enumerate())
        print(threading.current_thread() is threading.main_thread(), threading.active_count())
        """
    )
    assert done.stdout == "True mine True\nFalse False\nTrue 1\n"


# ---- import order ----------------------------------------------------------------------------------------------------


def test_sleep_imported_before_hooking_is_hooked(hooked: None) -> None:
    order: list[str] = []
    lissom.spawn(order.append, "ran")
    early_sleep(0.001)
    assert order == ["ran"]


def test_sleep_specialised_by_the_interpreter_before_hooking_is_hooked() -> None:
    def waits(seconds: float) -> None:
        time.sleep(seconds)

    for _ in range(100):
        waits(0)
    lissom.hook()
    try:
        assert others_run_during(lambda: waits(0.001), int) is None
    finally:
        lissom.unhook()


def test_bound_method_taken_before_hooking_is_hooked(hooked: None) -> None:
    assert others_run_during(lambda: early_recv(10), lambda: EARLY_SOCKETS[1].send(b"x")) == b"x"
    EARLY_LOCK.acquire()
    assert others_run_during(early_acquire, EARLY_LOCK.release)
    EARLY_LOCK.release()


def test_objects_made_before_hooking_cooperate(hooked: None) -> None:
    assert others_run_during(EARLY_EVENT.wait, EARLY_EVENT.set)
    assert others_run_during(EARLY_QUEUE.get, lambda: EARLY_QUEUE.put(5)) == 5
    assert others_run_during(EARLY_SIMPLE_QUEUE.get, lambda: EARLY_SIMPLE_QUEUE.put(6)) == 6
    assert others_run_during(lambda: os.read(EARLY_PIPE[0], 5), lambda: os.write(EARLY_PIPE[1], b"y")) == b"y"

    def wait_for_condition() -> bool:
        with EARLY_CONDITION:
            return EARLY_CONDITION.wait(30)

    def notify() -> None:
        with EARLY_CONDITION:
            EARLY_CONDITION.notify()

    assert others_run_during(wait_for_condition, notify)


def test_lock_held_before_hooking_is_waited_for() -> None:
    lock, rlock = threading.Lock(), threading.RLock()
    lock.acquire()
    rlock.acquire()
    rlock.acquire()
    lissom.hook()
    try:
        assert others_run_during(lock.acquire, lock.release)
        waiter = lissom.spawn(lambda: (rlock.acquire(), rlock.release())[0])
        lissom.schedule()
        assert waiter.blocked
        rlock.release()
        lissom.schedule()
        assert waiter.blocked
        rlock.release()
        with lissom.timeout(30):
            assert lissom.join(waiter)
    finally:
        lissom.unhook()


def test_lock_held_over_unhook_can_be_released_after_it() -> None:
    lissom.hook()
    rlock = threading.RLock()
    rlock.acquire()
    rlock.acquire()
    lissom.unhook()
    rlock.release()
    rlock.release()
    with pytest.raises(RuntimeError):
        rlock.release()
    assert rlock.acquire()
    rlock.release()


def test_import_order_does_not_matter_in_a_program(script: Script) -> None:
    done = script(
        """
        from time import sleep
        from socket import socketpair
        from threading import Thread, Event
        from queue import Queue
        import concurrent.futures
        event, queue, (left, right) = Event(), Queue(), socketpair()
        import lissom
        lissom.hook()
        order = []
        def waits():
            order.append(event.wait()); order.append(queue.get()); order.append(left.recv(9)); sleep(0.001)
            order.append("end")
        thread = Thread(target=waits)
        thread.start()
        sleep(0.001); event.set(); sleep(0.001); queue.put(1); sleep(0.001); right.send(b"x")
        thread.join()
        print(order)
        left.close(); right.close()
        """
    )
    assert done.stdout == "[True, 1, b'x', 'end']\n"


# ---- threads without a scheduler -------------------------------------------------------------------------------------


def test_threads_without_a_scheduler_see_the_originals(script: Script) -> None:
    done = script(
        """
        import _thread, os, queue, select, socket, subprocess, sys, threading, time
        import lissom
        lissom.hook(threads=False)
        results = []
        def real():
            left, right = socket.socketpair()
            lock = threading.Lock()
            simple, pipe = queue.SimpleQueue(), os.pipe()
            def wakes():
                time.sleep(0.01); right.send(b"a")
                time.sleep(0.01); lock.release()
                time.sleep(0.01); simple.put("b")
                time.sleep(0.01); os.write(pipe[1], b"c")
                time.sleep(0.01); right.send(b"d")
            lock.acquire()
            other = threading.Thread(target=wakes)
            other.start()
            results.append(left.recv(9))
            results.append(lock.acquire())
            results.append(simple.get())
            results.append(os.read(pipe[0], 9))
            results.append(select.select([left], [], [])[0] == [left])
            results.append(socket.getaddrinfo("localhost", 80) != [])
            results.append(subprocess.check_output([sys.executable, "-c", "print(5)"], text=True))
            left.settimeout(0.01); left.recv(9)
            try:
                left.recv(9)
            except TimeoutError:
                results.append("timed out")
            other.join()
            left.close(); right.close()
            results.append(os.readlink("/proc/thread-self") != main)
        main = os.readlink("/proc/thread-self")
        thread = threading.Thread(target=real)
        thread.start()
        thread.join()
        print(results)
        """
    )
    assert done.stdout == "[b'a', True, 'b', b'c', True, True, '5\\n', 'timed out', True]\n"


def test_lock_and_queue_between_a_tasklet_and_a_real_thread() -> None:
    lissom.hook(threads=False)
    try:
        lock, done = threading.Lock(), threading.Event()
        simple: queue.SimpleQueue[int] = queue.SimpleQueue()
        lock.acquire()

        def real() -> None:
            time.sleep(0.01)
            lock.release()
            time.sleep(0.01)
            simple.put(7)
            done.wait(30)

        thread = threading.Thread(target=real)
        thread.start()
        with lissom.timeout(30):
            assert lissom.join(lissom.spawn(lock.acquire))
            assert lissom.join(lissom.spawn(simple.get)) == 7
        done.set()
        thread.join(30)
        assert not thread.is_alive()
    finally:
        lissom.unhook()


def test_rlock_is_that_of_the_tasklet_or_of_the_real_thread() -> None:
    lissom.hook(threads=False)
    try:
        rlock, held, release = threading.RLock(), threading.Event(), threading.Event()

        def real() -> None:
            with rlock:
                held.set()
                release.wait(30)

        thread = threading.Thread(target=real)
        thread.start()
        assert held.wait(30)
        waiter = lissom.spawn(rlock.acquire)
        lissom.schedule()
        assert waiter.blocked
        assert not rlock.acquire(blocking=False)
        release.set()
        with lissom.timeout(30):
            assert lissom.join(waiter)
        thread.join()
    finally:
        lissom.unhook()


@pytest.fixture(scope="module", autouse=True)
def close_early_objects() -> Iterator[None]:
    """Leave no warning about what the module made when it was imported."""
    yield
    for thing in EARLY_SOCKETS:
        thing.close()
    for descriptor in EARLY_PIPE:
        os.close(descriptor)


def test_unhook_leaves_threads_that_are_tasklets_able_to_end(script: Script) -> None:
    done = script(
        """
        import lissom, threading
        lissom.hook()
        event = threading.Event()
        def work():
            event.wait()
            print("worked")
        threading.Thread(target=work).start()
        lissom.unhook()
        print(lissom.is_hooked())
        event.set()
        """
    )
    assert done.stdout == "False\nworked\n"
