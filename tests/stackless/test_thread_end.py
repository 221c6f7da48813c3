"""Moving tasklets between threads, and what becomes of them when their thread ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import stackless
from lissom import TaskletExit

if TYPE_CHECKING:
    from tests.stackless.conftest import Remote

pytestmark = pytest.mark.timeout(20)


def nothing() -> None:
    """Do nothing."""


# ---- bind_thread -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["none", "minus one", "ident"])
def test_bind_thread_moves_a_tasklet_that_has_not_started(remote_thread: type[Remote], arguments: str) -> None:
    idents: list[int] = []
    given = {"none": (), "minus one": (-1,), "ident": (threading.get_ident(),)}[arguments]
    with remote_thread(lambda: idents.append(threading.get_ident())) as remote:
        task = remote.tasks[0]
        assert task.thread_id == remote.ident
        assert task.bind_thread(*given) is None
        assert (task.thread_id, task.alive, task.paused) == (threading.get_ident(), True, True)
    task.insert()
    stackless.run()
    assert (idents, task.alive) == ([threading.get_ident()], False)


def test_bind_thread_moves_to_another_thread(remote_thread: type[Remote]) -> None:
    answers = stackless.channel()
    task = stackless.tasklet(lambda: answers.send(threading.get_ident()), ())
    with remote_thread() as remote:
        task.bind_thread(remote.ident)
        assert task.thread_id == remote.ident
        task.run()
        assert answers.receive() == remote.ident


def test_bind_thread_to_the_own_thread_does_nothing() -> None:
    queued = stackless.tasklet(nothing)()
    for task in (queued, stackless.current):
        assert task.bind_thread() is None
    stackless.run()


def test_bind_thread_refuses_runnable_and_started_tasklets(remote_thread: type[Remote]) -> None:
    with remote_thread(
        stackless.schedule_remove,
        stackless.channel().receive,
        stackless.schedule,
        busy=True,
        started=True,
        at_end=nothing,
    ) as remote:
        paused, blocked, queued = remote.tasks
        for task in (paused, blocked):
            with pytest.raises(RuntimeError, match=r"^tasklet has C state on its stack$"):
                task.bind_thread()
        with pytest.raises(RuntimeError, match=r"^can't \(re\)bind a runnable tasklet$"):
            queued.bind_thread()
        with pytest.raises(RuntimeError, match=r"^can't \(re\)bind a runnable tasklet$"):
            remote.main.bind_thread()
        assert {task.thread_id for task in remote.tasks} == {remote.ident}


@pytest.mark.parametrize("wrong", [1, 2**40])
def test_bind_thread_refuses_unknown_threads(wrong: int) -> None:
    task = stackless.tasklet(nothing, ())
    with pytest.raises(ValueError, match=r"^bad thread$"):
        task.bind_thread(wrong)
    with pytest.raises((ValueError, OverflowError)):
        task.bind_thread(-2)
    with pytest.raises(TypeError, match="int"):
        task.bind_thread("1")
    assert task.thread_id == threading.get_ident()


# ---- the end of a thread ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queued", [False, True])
def test_tasklet_that_never_started_is_dead_after_the_end_of_its_thread(
    remote_thread: type[Remote], queued: bool
) -> None:
    steps: list[str] = []
    with remote_thread(lambda: steps.append("ran"), busy=True, at_end=nothing) as remote:
        task = remote.tasks[0]
        if queued:
            task.insert()
        assert (task.alive, task.thread_id) == (True, remote.ident)
    assert (task.alive, task.paused, task.scheduled, task.blocked, task.thread_id) == (False,) * 4 + (-1,)
    assert (steps, task.next, task.prev, task.frame, task.is_current, task.is_main) == (
        [],
        None,
        None,
        None,
        False,
        False,
    )


def test_tasklet_that_never_started_can_be_moved_before_and_after_the_end_of_its_thread(
    remote_thread: type[Remote],
) -> None:
    steps: list[str] = []
    with remote_thread(
        lambda: steps.append("before"), lambda: steps.append("after"), busy=True, at_end=nothing
    ) as remote:
        before, after = remote.tasks
        before.bind_thread()
    after.bind_thread()
    for task in (before, after):
        assert (task.thread_id, task.alive, task.paused) == (threading.get_ident(), True, True)
        task.run()
    assert steps == ["before", "after"]


@pytest.mark.parametrize("wait", ["schedule", "schedule_remove", "receive", "run"])
def test_started_tasklet_is_killed_at_the_end_of_its_thread(remote_thread: type[Remote], wait: str) -> None:
    channel, ends = stackless.channel(), []

    def work() -> None:
        try:
            (channel.receive if wait == "receive" else getattr(stackless, wait))()
        except TaskletExit:
            ends.append(threading.get_ident())
            raise

    with remote_thread(work, busy=True, started=True, at_end=nothing) as remote:
        assert remote.tasks[0].alive
        ident = remote.ident
    assert ends == [ident]
    assert (remote.tasks[0].alive, remote.tasks[0].thread_id, channel.balance) == (False, -1, 0)


def test_tasklet_that_survives_does_not_keep_its_thread_from_ending(remote_thread: type[Remote]) -> None:
    kills: list[int] = []

    def work() -> None:
        while True:
            try:
                stackless.schedule_remove()
            except TaskletExit:
                kills.append(1)

    with remote_thread(work, busy=True, started=True, at_end=nothing) as remote:
        pass
    assert 1 <= len(kills) <= 10
    assert (remote.tasks[0].alive, remote.tasks[0].thread_id) == (False, -1)


def test_methods_of_a_tasklet_whose_thread_has_ended(remote_thread: type[Remote]) -> None:
    with remote_thread(nothing, busy=True, at_end=nothing) as remote:
        task = remote.tasks[0]
    no_thread = pytest.raises(RuntimeError, match=r"^tasklet has no thread$")
    flags = ("alive", "paused", "blocked", "scheduled", "atomic", "block_trap", "ignore_nesting")
    assert [getattr(task, flag) for flag in flags] == [False] * 7
    assert (task.restorable, task.trace_function, task.profile_function, task.next, task.prev) == (True, *[None] * 4)
    for pending in (False, True):
        with no_thread:
            task.throw(LookupError, pending=pending)
        with no_thread:
            task.throw(TaskletExit, pending=pending)
    with no_thread:
        task.raise_exception(LookupError)
    for step in (task.run, task.switch):
        with no_thread:
            step()
    with pytest.raises(RuntimeError, match=r"^Target thread isn't initialized$"):
        task.insert()
    assert task.remove() is task
    task.bind(None)
    task.bind(nothing)
    for step in (task.setup, lambda: task.bind(nothing, ())):
        with no_thread:
            step()
    assert task.__reduce__()[0] is stackless.tasklet
    assert (task.set_atomic(task.set_atomic(True)), task.set_ignore_nesting(False)) == (True, False)
    assert (task.tempval, task.thread_id) == (nothing, -1)


def test_kill_of_a_tasklet_whose_thread_has_ended_drops_its_call(remote_thread: type[Remote]) -> None:
    with remote_thread(nothing, busy=True, at_end=nothing) as remote:
        task = remote.tasks[0]
    assert task.kill() is None
    task.bind_thread()
    assert (task.thread_id, task.alive) == (threading.get_ident(), False)
    with pytest.raises(RuntimeError, match=r"unbound\(dead\)"):
        task.run()
