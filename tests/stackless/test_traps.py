"""block_trap and switch_trap: after a trap everything is as it was before."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOT_BLOCKED = r"^this tasklet does not like to be blocked\.$"


def nothing() -> None:
    """Do nothing."""


@contextlib.contextmanager
def trapped() -> Iterator[None]:
    """Trap switches, and see that nothing has changed afterwards."""
    marker = object()
    stackless.current.tempval = marker
    before = queue(), stackless.current.paused, stackless.get_thread_info(-1, 1 << 31)
    stackless.switch_trap(1)
    try:
        yield
    finally:
        assert stackless.switch_trap(-1) == 1
    assert (queue(), stackless.current.paused, stackless.get_thread_info(-1, 1 << 31)) == before
    assert stackless.current.tempval is marker
    stackless.current.tempval = None


def queue() -> list[stackless.tasklet]:
    """Return the queue, beginning with the running tasklet."""
    found, task = [stackless.current], stackless.current.next
    while task is not None and task is not stackless.current:
        found.append(task)
        task = task.next
    return found


def refused(call: Callable[..., object], *args: object) -> None:
    """Check that a call is trapped."""
    with trapped(), pytest.raises(RuntimeError, match=r"^switch_trap$"):
        call(*args)


def started(func: Callable[[], object]) -> stackless.tasklet:
    """Return a tasklet that has run until it blocked or paused."""
    task = stackless.tasklet(func)()
    task.run()
    return task


def caught(kind: type[BaseException], call: Callable[[], object]) -> Callable[[], None]:
    """Return a function that expects `kind` from the call."""

    def work() -> None:
        with pytest.raises(kind):
            call()

    return work


# ---- switch_trap -----------------------------------------------------------------------------------------------------


def test_switch_trap_counts_and_returns_the_old_level() -> None:
    assert [stackless.switch_trap(change) for change in (2, 1, 0, -3)] == [0, 2, 3, 3]
    assert stackless.switch_trap() == 0


def test_switch_trap_is_per_thread() -> None:
    levels: list[int] = []
    stackless.switch_trap(1)
    thread = threading.Thread(target=lambda: levels.append(stackless.switch_trap(0)))
    thread.start()
    thread.join()
    stackless.switch_trap(-1)
    assert levels == [0]


@pytest.mark.parametrize("name", ["schedule", "schedule_remove", "run"])
def test_function_is_trapped(name: str) -> None:
    task = stackless.tasklet(nothing)()
    refused(getattr(stackless, name))
    assert task.scheduled
    stackless.run()
    assert not task.alive


@pytest.mark.parametrize("timeout", [0, 1000])
def test_run_in_a_tasklet_is_trapped(timeout: int) -> None:
    def work() -> None:
        refused(stackless.run, timeout)

    stackless.tasklet(work)()
    stackless.tasklet(nothing)()
    stackless.run()


@pytest.mark.parametrize("state", ["queued", "paused", "started"])
@pytest.mark.parametrize("name", ["run", "switch"])
def test_run_and_switch_of_a_tasklet_are_trapped(name: str, state: str) -> None:
    task = started(stackless.schedule_remove) if state == "started" else stackless.tasklet(nothing, ())
    if state == "queued":
        task.insert()
    refused(getattr(task, name))
    assert task.paused is (state != "queued")
    getattr(task, name)()
    assert not task.alive


def test_blocked_tasklet_is_refused_before_the_trap() -> None:
    channel = stackless.channel()
    task = started(channel.receive)
    for call in (task.run, task.switch):
        with trapped(), pytest.raises(RuntimeError, match=r"^You cannot run a blocked tasklet$"):
            call()
    channel.send(None)


@pytest.mark.parametrize("name", ["run", "switch"])
def test_switch_to_oneself_is_no_switch(name: str) -> None:
    stackless.switch_trap(1)
    try:
        assert getattr(stackless.current, name)() is None
        assert stackless.schedule("alone") == "alone"
        assert stackless.run() is None
    finally:
        stackless.switch_trap(-1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("send", (1,)), ("send_throw", (KeyError,)), ("send_exception", (KeyError,)), ("receive", ())],
)
def test_blocking_on_a_channel_is_trapped(name: str, arguments: tuple[object, ...]) -> None:
    channel = stackless.channel()
    task = stackless.tasklet(nothing)()
    refused(getattr(channel, name), *arguments)
    assert (channel.balance, channel.queue, stackless.current.blocked) == (0, None, False)
    task.run()


@pytest.mark.parametrize(
    ("name", "arguments"), [("send", (1,)), ("send_throw", (KeyError,)), ("send_exception", (KeyError,))]
)
def test_send_that_would_switch_to_a_waiting_receiver_is_trapped(name: str, arguments: tuple[object, ...]) -> None:
    channel = stackless.channel()
    first = started(caught(KeyError, channel.receive) if name != "send" else channel.receive)
    second = started(channel.receive)
    refused(getattr(channel, name), *arguments)
    assert (channel.balance, channel.queue, first.next, first.tempval) == (-2, first, second, None)
    assert first.blocked
    getattr(channel, name)(*arguments)
    assert not first.alive
    second.kill()


def test_receive_that_would_switch_to_a_waiting_sender_is_trapped() -> None:
    channel = stackless.channel()
    channel.preference = 1
    first, second = started(lambda: channel.send("a")), started(lambda: channel.send("b"))
    refused(channel.receive)
    assert (channel.balance, channel.queue, first.next, first.tempval) == (2, first, second, "a")
    assert [channel.receive(), channel.receive()] == ["a", "b"]


def test_exchange_without_a_switch_is_not_trapped() -> None:
    channel = stackless.channel()
    sender = started(lambda: channel.send("a"))
    stackless.switch_trap(1)
    assert channel.receive() == "a"
    channel.preference = 1
    stackless.switch_trap(-1)
    stackless.run()
    got: list[object] = []
    receiver = started(lambda: got.append(channel.receive()))
    stackless.switch_trap(1)
    channel.send("b")
    stackless.switch_trap(-1)
    assert got == []
    stackless.run()
    assert (got, sender.alive, receiver.alive) == (["b"], False, False)


def test_schedule_all_is_trapped() -> None:
    channel = stackless.channel()
    channel.schedule_all = True
    task = started(lambda: channel.send("a"))
    refused(channel.receive)
    assert (channel.balance, task.tempval) == (1, "a")
    assert channel.receive() == "a"
    stackless.run()


@pytest.mark.parametrize("state", ["never started", "queued", "paused", "blocked"])
@pytest.mark.parametrize(
    ("name", "arguments"), [("kill", ()), ("throw", (KeyError,)), ("raise_exception", (KeyError, "text"))]
)
def test_throwing_is_trapped(name: str, arguments: tuple[object, ...], state: str) -> None:
    channel = stackless.channel()
    task = {
        "never started": lambda: stackless.tasklet(nothing, ()),
        "queued": lambda: started(lambda: stackless.schedule_remove()).insert(),
        "paused": lambda: started(stackless.schedule_remove),
        "blocked": lambda: started(channel.receive),
    }[state]()
    before = task.tempval, task.paused, task.blocked, task.scheduled, channel.balance, task.frame
    refused(getattr(task, name), *arguments)
    assert (task.tempval, task.paused, task.blocked, task.scheduled, channel.balance, task.frame) == before
    if state == "blocked":
        channel.send(None)
    else:
        task.run()
    assert not task.alive


def test_throwing_without_a_switch_is_not_trapped() -> None:
    task = started(caught(KeyError, stackless.schedule_remove))
    ended = started(nothing)
    stackless.switch_trap(1)
    try:
        task.throw(KeyError, pending=True)
        ended.kill()
        with pytest.raises(LookupError, match="mine"):
            stackless.current.throw(LookupError("mine"))
    finally:
        stackless.switch_trap(-1)
    assert task.scheduled
    stackless.run()
    assert not task.alive


def test_traps_do_not_hinder_queueing() -> None:
    stackless.switch_trap(1)
    task = stackless.tasklet(nothing)()
    task.remove().insert()
    stackless.switch_trap(-1)
    stackless.run()
    assert not task.alive


# ---- block_trap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("send", (1,)), ("send_throw", (KeyError,)), ("send_exception", (KeyError,)), ("receive", ())],
)
@pytest.mark.parametrize("where", ["main", "a tasklet"])
def test_blocking_is_refused_under_a_block_trap(name: str, arguments: tuple[object, ...], where: str) -> None:
    channel, marker, done = stackless.channel(), object(), []

    def work() -> None:
        current = stackless.current
        current.block_trap, current.tempval = True, marker
        with pytest.raises(RuntimeError, match=NOT_BLOCKED):
            getattr(channel, name)(*arguments)
        assert (channel.balance, channel.queue, current.blocked, current.tempval) == (0, None, False, marker)
        current.block_trap, current.tempval = False, None
        done.append(True)

    if where == "main":
        work()
    else:
        stackless.tasklet(work)()
        stackless.run()
    assert done == [True]


def test_block_trap_allows_exchanges_that_do_not_block() -> None:
    channel, got = stackless.channel(), []
    started(lambda: got.append(channel.receive()))
    stackless.current.block_trap = True
    channel.send(1)
    sender = started(lambda: channel.send(2))
    assert channel.receive() == 2
    stackless.current.block_trap = False
    assert got == [1]
    sender.run()


def test_block_trap_comes_before_a_closed_channel() -> None:
    channel = stackless.channel()
    channel.close()
    stackless.current.block_trap = True
    with pytest.raises(RuntimeError, match=NOT_BLOCKED):
        channel.receive()
    stackless.current.block_trap = False


def test_block_trap_does_not_hinder_other_waits() -> None:
    stackless.current.block_trap = True
    for call in (stackless.schedule, stackless.schedule_remove, stackless.run, stackless.tasklet(nothing, ()).switch):
        stackless.tasklet(nothing)()
        call()
    stackless.current.block_trap = False
    stackless.run()


def test_block_trap_is_per_tasklet() -> None:
    channel = stackless.channel()
    stackless.current.block_trap = True
    task = started(channel.receive)
    assert (task.blocked, task.block_trap) == (True, False)
    stackless.current.block_trap = False
    task.kill()
