"""A scheduler for each thread: acting on tasklets of other threads, and channels between threads."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import TYPE_CHECKING

import pytest
import stackless
from lissom import TaskletExit

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stackless.conftest import Remote

pytestmark = pytest.mark.timeout(20)


def nothing() -> None:
    """Do nothing."""


# ---- a scheduler for each thread -------------------------------------------------------------------------------------


def test_each_thread_has_a_main_tasklet_of_its_own() -> None:
    seen: list[object] = []

    def look() -> None:
        main = stackless.main
        seen.extend((main, main is stackless.current, main.is_main, main.thread_id, stackless.runcount))

    thread = threading.Thread(target=look)
    thread.start()
    ident = thread.ident
    thread.join()
    assert seen[0] is not stackless.main
    assert seen[1:] == [True, True, ident, 1]


def test_main_and_current_of_another_thread_are_not_mine(remote_thread: type[Remote]) -> None:
    with remote_thread() as remote:
        assert (remote.main.is_main, remote.main.thread_id) == (True, remote.ident)
        assert stackless.main.thread_id == threading.get_ident()
    assert (remote.main.thread_id, remote.main.alive) == (-1, False)


def test_queues_are_separate(remote_thread: type[Remote]) -> None:
    steps: list[str] = []
    mine = stackless.tasklet(steps.append)("mine")
    with remote_thread(lambda: steps.append("remote")) as remote:
        remote.tasks[0].insert()
    assert steps == ["remote"]
    assert mine.scheduled
    stackless.run()


def test_exception_goes_to_the_main_tasklet_of_its_thread(remote_thread: type[Remote]) -> None:
    def fail() -> None:
        raise LookupError("gone")

    with remote_thread(fail) as remote:
        remote.tasks[0].run()
        stackless.run()
        remote.thread.join()
    assert [str(error) for error in remote.errors] == ["gone"]


# ---- acting on tasklets of another thread ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["insert", "run"])
def test_tasklet_of_another_thread_runs_there(remote_thread: type[Remote], step: str) -> None:
    answers = stackless.channel()
    with remote_thread(lambda: answers.send(threading.get_ident())) as remote:
        result = getattr(remote.tasks[0], step)()
        assert result is (remote.tasks[0] if step == "insert" else None)
        assert answers.receive() == remote.ident


@pytest.mark.parametrize("step", ["setup", "__call__"])
def test_setup_queues_in_the_thread_of_the_tasklet(remote_thread: type[Remote], step: str) -> None:
    answers = stackless.channel()

    def bind(remote: Remote) -> None:
        remote.tasks.append(stackless.tasklet(lambda value: answers.send((value, threading.get_ident()))))

    with remote_thread(prepare=bind) as remote:
        assert getattr(remote.tasks[0], step)(5) is remote.tasks[0]
        assert answers.receive() == (5, remote.ident)


@pytest.mark.parametrize("step", ["insert", "run", "kill", "throw"])
def test_caller_goes_on_and_its_own_queue_does_not_run(remote_thread: type[Remote], step: str) -> None:
    steps: list[str] = []
    mine = stackless.tasklet(steps.append)("mine")
    with remote_thread(nothing) as remote:
        getattr(remote.tasks[0], step)(*([TaskletExit] if step == "throw" else []))
        assert (steps, mine.scheduled, stackless.runcount) == ([], True, 2)
    assert not remote.tasks[0].alive
    stackless.run()


def test_run_puts_the_tasklet_before_those_that_were_inserted(remote_thread: type[Remote]) -> None:
    steps: list[int] = []
    with remote_thread(*[lambda number=number: steps.append(number) for number in range(3)], busy=True) as remote:
        remote.tasks[1].insert()
        remote.tasks[2].insert()
        remote.tasks[0].run()
        assert stackless.get_thread_info(remote.ident)[2] == 4
    assert steps == [0, 1, 2]


def test_remove_and_insert_do_not_touch_the_queue_of_the_caller(remote_thread: type[Remote]) -> None:
    with remote_thread(nothing, busy=True) as remote:
        task = remote.tasks[0]
        for count in (1, 1):
            task.insert()
            assert stackless.get_thread_info(remote.ident)[2] == 2
            task.remove()
            assert (stackless.runcount, stackless.get_thread_info(remote.ident)[2]) == (count, 1)
        assert task.paused


def test_switch_to_a_tasklet_of_another_thread_raises(remote_thread: type[Remote]) -> None:
    with remote_thread(nothing) as remote:
        with pytest.raises(RuntimeError, match=r"^can't switch to a different thread\.$"):
            remote.tasks[0].switch()
        assert (remote.tasks[0].paused, stackless.current.scheduled) == (True, True)


def test_current_tasklet_of_another_thread_cannot_be_bound_or_removed(remote_thread: type[Remote]) -> None:
    with remote_thread(busy=True) as remote:
        with pytest.raises(RuntimeError, match=r"^can't \(re\)bind the current tasklet$"):
            remote.main.bind(nothing)
        with pytest.raises(RuntimeError, match=r"^The current tasklet cannot be removed\.$"):
            remote.main.remove()


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("wait", ["schedule_remove", "receive"])
def test_exception_is_raised_in_the_thread_of_the_tasklet(
    remote_thread: type[Remote], wait: str, pending: bool
) -> None:
    channel, answers = stackless.channel(), stackless.channel()

    def work() -> None:
        answers.send("started")
        try:
            channel.receive() if wait == "receive" else stackless.schedule_remove()
        except LookupError as error:
            answers.send((str(error), threading.get_ident()))

    with remote_thread(work) as remote:
        remote.tasks[0].run()
        assert answers.receive() == "started"
        assert remote.tasks[0].throw(LookupError, "thrown", pending=pending) is None
        assert answers.receive() == ("thrown", remote.ident)
    assert channel.balance == 0


def test_main_tasklet_of_another_thread_can_be_thrown_into(remote_thread: type[Remote]) -> None:
    with remote_thread() as remote:
        remote.main.throw(LookupError("for the other main"))
        remote.thread.join()
    assert [str(error) for error in remote.errors] == ["for the other main"]
    assert remote.control.balance == 0


@pytest.mark.parametrize("trap", [0, 1])
def test_kill_of_a_tasklet_that_has_not_started_ends_it_in_its_thread(remote_thread: type[Remote], trap: int) -> None:
    steps: list[str] = []
    with remote_thread(lambda: steps.append("ran"), busy=True) as remote:
        stackless.switch_trap(trap)
        remote.tasks[0].kill()
        stackless.switch_trap(-trap)
        assert remote.tasks[0].scheduled
    assert (steps, remote.tasks[0].alive) == ([], False)


# ---- channels --------------------------------------------------------------------------------------------------------


def test_values_and_exceptions_pass_between_threads(remote_thread: type[Remote]) -> None:
    requests, answers = stackless.channel(), stackless.channel()

    def failing_function(value: object) -> None:
        raise LookupError(value)

    def serve() -> None:
        for value in requests:
            try:
                failing_function(value)
            except LookupError:
                answers.send_throw(*sys.exc_info())

    with remote_thread(serve) as remote:
        remote.tasks[0].run()
        for number in range(100):
            requests.send(number)
            with pytest.raises(LookupError) as caught:
                answers.receive()
            assert caught.value.args == (number,)
            assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "failing_function"
        requests.send_exception(StopIteration)


@pytest.mark.parametrize("preference", [-1, 0, 1])
@pytest.mark.parametrize("direction", ["send", "receive"])
def test_preference_does_not_count_between_threads(
    remote_thread: type[Remote], direction: str, preference: int
) -> None:
    channel, steps = stackless.channel(), []
    channel.preference = preference
    channel.schedule_all = preference == 0

    def at_end() -> None:
        steps.append(channel.balance)
        stackless.run()

    waits = channel.receive if direction == "send" else (lambda: channel.send("value"))
    stackless.tasklet(steps.append)("mine")
    with remote_thread(waits, busy=True, started=True, at_end=at_end) as remote:
        assert channel.balance == (-1 if direction == "send" else 1)
        assert (channel.send("value") if direction == "send" else channel.receive() and None) is None
        assert (steps, remote.tasks[0].scheduled, remote.tasks[0].blocked) == ([], True, False)
    assert (steps, remote.tasks[0].alive) == ([0], False)
    stackless.run()


def test_channel_callback_comes_after_an_exchange_between_threads(remote_thread: type[Remote]) -> None:
    channel, seen = stackless.channel(), []
    with remote_thread(channel.receive, busy=True, started=True, at_end=nothing):
        stackless.set_channel_callback(lambda ch, task, *flags: seen.append((task, *flags, ch.balance)))
        channel.send("value")
        stackless.set_channel_callback(None)
    assert seen == [(stackless.main, 1, 0, 0)]


def test_waiters_of_several_threads_are_served_in_order(remote_thread: type[Remote]) -> None:
    channel, got = stackless.channel(), []

    def receive(name: str) -> Callable[[], None]:
        return lambda: got.append((name, channel.receive()))

    with (
        remote_thread(receive("first"), busy=True, started=True) as first,
        remote_thread(receive("second"), busy=True, started=True),
    ):
        stackless.tasklet(receive("mine"))().run()
        assert (channel.balance, channel.queue) == (-3, first.tasks[0])
        channel.send_sequence(range(3))
    stackless.run()
    assert sorted(got) == [("first", 0), ("mine", 2), ("second", 1)]
