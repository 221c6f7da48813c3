"""Nothing is left behind by tasklets that ended, in whatever state: no object, reference, stack or descriptor."""

from __future__ import annotations

import contextlib
import gc
import queue
import resource
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import lissom
import pytest
from lissom import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import ReferenceCheck

MANY = 500


@pytest.fixture
def hooked() -> Iterator[None]:
    """Hook for the test."""
    lissom.hook()
    yield
    lissom.unhook()


@pytest.fixture(autouse=True)
def no_stack_in_use() -> Iterator[None]:
    """Every stack has been given back at the end of a test."""
    before = _core._stats()["stacks_in_use"]
    yield
    gc.collect()
    assert _core._stats()["stacks_in_use"] == before


def end_all(tasklets: list[lissom.tasklet]) -> None:
    """Kill all and forget their results."""
    lissom.schedule()
    for tasklet in tasklets:
        tasklet.kill()
        assert not tasklet.alive


# ---- tasklets --------------------------------------------------------------------------------------------------------


@pytest.mark.leakcheck(rounds=5)
def test_tasklets_that_ended() -> None:
    for _ in range(MANY):
        lissom.spawn(lambda: object())
    lissom.run()


@pytest.mark.leakcheck(rounds=5)
def test_tasklets_that_were_joined_with_results_and_exceptions() -> None:
    def fail(number: int) -> None:
        raise LookupError(number)

    for number in range(MANY):
        with contextlib.suppress(LookupError):
            lissom.join(lissom.spawn(fail, number))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report no exceptions."""
    monkeypatch.setattr(lissom, "excepthook", lambda tasklet, exception: None)


@pytest.mark.leakcheck(rounds=5)
def test_tasklets_that_failed_unseen(silent: None) -> None:
    for _ in range(MANY):
        lissom.spawn(lambda: 1 // 0)
    lissom.run()


WAITS: dict[str, Callable[[lissom.channel], object]] = {
    "queued": lambda channel: [lissom.schedule() for _ in range(10**6)],
    "paused": lambda channel: lissom.schedule_remove(),
    "sleeping": lambda channel: lissom.sleep(60),
    "receiving": lambda channel: channel.receive(),
    "sending": lambda channel: lissom.channel().send(object()),
    "joining": lambda channel: lissom.join(lissom.getmain()),
    "with a timeout": lambda channel: timeout_round(lissom.schedule_remove),
    "handling an exception": lambda channel: handling(lissom.schedule_remove),
    "in a generator": lambda channel: list(generator()),
}


def timeout_round(wait: Callable[[], object]) -> None:
    with lissom.timeout(60):
        wait()


def handling(wait: Callable[[], object]) -> None:
    try:
        raise LookupError
    except LookupError:
        wait()


def generator() -> Iterator[object]:
    yield lissom.schedule_remove()


@pytest.mark.parametrize("state", WAITS)
@pytest.mark.leakcheck(rounds=5)
def test_tasklets_that_were_killed(state: str) -> None:
    channel = lissom.channel()
    end_all([lissom.spawn(WAITS[state], channel) for _ in range(MANY)])


@pytest.mark.leakcheck(rounds=5)
def test_tasklets_that_never_started() -> None:
    kept = [lissom.spawn(int) for _ in range(MANY)] + [lissom.tasklet(int, ()) for _ in range(MANY)]
    for tasklet in kept:
        tasklet.kill()
    for _ in range(MANY):
        lissom.tasklet(int)
        lissom.tasklet()


@pytest.mark.leakcheck(rounds=5)
def test_paused_tasklets_that_nobody_refers_to() -> None:
    for _ in range(MANY):
        lissom.spawn(lissom.schedule_remove)
    lissom.schedule()


@pytest.mark.leakcheck(rounds=5)
def test_tasklets_with_deep_stacks() -> None:
    def down(depth: int) -> object:
        return lissom.schedule_remove(None) if depth == 0 else down(depth - 1)

    end_all([lissom.spawn(down, 200) for _ in range(50)])


@pytest.mark.leakcheck(rounds=5)
def test_traced_tasklets() -> None:
    def work() -> None:
        sys.settrace(lambda *_: None)
        sys.setprofile(lambda *_: None)
        lissom.schedule()

    for _ in range(MANY):
        lissom.spawn(work)
    lissom.run()


@pytest.mark.leakcheck(rounds=5)
def test_expired_timeouts() -> None:
    for _ in range(50):
        with contextlib.suppress(TimeoutError), lissom.timeout(0.0001):
            lissom.sleep(60)


@pytest.mark.leakcheck(rounds=5)
def test_deadlocks() -> None:
    channel = lissom.channel()
    for _ in range(20):
        with contextlib.suppress(RuntimeError):
            channel.receive()


@pytest.mark.leakcheck(rounds=5)
def test_channels_with_values_and_exceptions() -> None:
    def produce(channel: lissom.channel) -> None:
        for _ in range(100):
            channel.send(object())
        channel.send_exception(LookupError, object())

    for preference in (-1, 0, 1):
        channel = lissom.channel()
        channel.preference = preference
        lissom.spawn(produce, channel)
        for _ in range(100):
            channel.receive()
        with contextlib.suppress(LookupError):
            channel.receive()
    lissom.run()


@pytest.mark.leakcheck(rounds=5)
def test_offloaded_functions() -> None:
    for _ in range(100):
        lissom.offload(object)
        with contextlib.suppress(ZeroDivisionError):
            lissom.offload(lambda: 1 // 0)


def test_arguments_and_results_keep_their_counts(no_new_references: ReferenceCheck) -> None:
    thing, key = object(), "key of the keyword argument"
    channel = lissom.channel()

    def work(argument: object, **kwargs: object) -> object:
        lissom.schedule(argument)
        channel.send(argument)
        return argument

    with no_new_references(thing, key, channel, work, lissom.getmain()):
        for _ in range(100):
            tasklet = lissom.spawn(work, thing, **{key: thing})
            assert channel.receive() is thing
            assert lissom.join(tasklet) is thing
            tasklet = lissom.tasklet(work, (thing,), {key: thing}).insert()
            lissom.schedule()
            tasklet.kill()
        del tasklet


# ---- hooked calls ----------------------------------------------------------------------------------------------------


@pytest.mark.leakcheck(rounds=5)
def test_threads(hooked: None) -> None:
    threads = [threading.Thread(target=time.sleep, args=[0]) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


@pytest.mark.leakcheck(rounds=5)
def test_thread_locals(hooked: None) -> None:
    local = threading.local()
    threads = [threading.Thread(target=setattr, args=[local, "value", object()]) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


@pytest.mark.leakcheck(rounds=5)
def test_locks_and_queues(hooked: None) -> None:
    for maker in (
        threading.Lock,
        threading.RLock,
        threading.Condition,
        threading.Event,
        queue.Queue,
        queue.SimpleQueue,
    ):
        thing = maker()
        wait = getattr(thing, "get", None) or getattr(thing, "wait", None) or thing.acquire
        if hasattr(thing, "acquire"):
            thing.acquire()
        with contextlib.suppress(queue.Empty):
            wait(timeout=0.001)
        waiters = [lissom.spawn(wait) for _ in range(20)]
        lissom.schedule()
        for waiter in waiters:
            waiter.kill() if waiter.alive else None
        if hasattr(thing, "release"):
            with contextlib.suppress(RuntimeError):
                thing.release()
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):
                lissom.join(waiter)


@pytest.mark.leakcheck(rounds=5)
def test_sockets_in_every_state(hooked: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(20):
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            receiver = lissom.spawn(server.recv, 100)
            lissom.schedule()
            client.sendall(b"x" * 100)
            lissom.join(receiver)
            client.settimeout(0.0001)
            with contextlib.suppress(TimeoutError):
                client.recv(1)
            killed = lissom.spawn(server.recv, 100)
            lissom.schedule()
            killed.kill()
            client.close()
            assert server.recv(1) == b""
            server.close()
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 1)).close()


@pytest.mark.leakcheck(rounds=3)
def test_hook_and_unhook() -> None:
    for _ in range(20):
        lissom.hook()
        lissom.unhook()


@pytest.mark.leakcheck(rounds=3)
def test_schedulers_of_threads() -> None:
    def work() -> None:
        kept = lissom.spawn(lissom.schedule_remove)
        lissom.join(lissom.spawn(lissom.sleep, 0.0001))
        assert kept.paused

    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_over_many_tasklets() -> None:
    """The high-water mark of the process: freed and used again, over and over."""

    def wave() -> None:
        tasklets = [lissom.spawn(lissom.sleep, 0.001) for _ in range(2000)]
        for tasklet in tasklets:
            lissom.join(tasklet)

    for _ in range(3):
        wave()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10):
        wave()
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096
    )  # KiB: 20,000 tasklets took at least 80 MB
