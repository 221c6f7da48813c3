"""`throw`, `kill` and `raise_exception` for targets in every state.

What can be thrown, and bombs in `tempval`, are in test_bombs.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import stackless
from lissom import TaskletExit

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing() -> None:
    """Do nothing."""


class Target:
    """A tasklet in one of several states, that notes what it is woken with."""

    def __init__(self, state: str) -> None:
        self.caught: list[BaseException] = []
        self.started = False
        self.channel = stackless.channel()
        waits = {
            "blocked in receive": self.channel.receive,
            "blocked in send": lambda: self.channel.send("value"),
            "queued": stackless.schedule,
            "paused": stackless.schedule_remove,
            "in run()": stackless.run,
        }
        self.task = stackless.tasklet(self.work)(waits.get(state, nothing))
        if state in waits:
            self.task.run()
        if state == "never started, paused":
            self.task.remove()

    def work(self, wait: Callable[[], object]) -> None:
        self.started = True
        try:
            wait()
        except BaseException as error:
            self.caught.append(error)
            raise


STARTED = ["blocked in receive", "blocked in send", "queued", "paused", "in run()"]
NEVER_STARTED = ["never started, queued", "never started, paused"]


# ---- targets that have started ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STARTED)
def test_throw_raises_at_once_where_the_target_waits(state: str) -> None:
    target = Target(state)
    error = LookupError("thrown")
    with pytest.raises(LookupError) as caught:
        target.task.throw(error)
    assert caught.value is error
    assert target.caught == [error]
    assert (target.task.alive, target.channel.balance, stackless.runcount) == (False, 0, 1)


@pytest.mark.parametrize("state", STARTED)
def test_pending_throw_raises_when_the_target_runs_next(state: str) -> None:
    target = Target(state)
    error = LookupError("thrown")
    assert target.task.throw(error, pending=True) is None
    task = target.task
    assert (target.caught, task.alive, task.blocked, task.paused, task.scheduled) == ([], True, False, False, True)
    assert (target.channel.balance, stackless.runcount) == (0, 2)
    with pytest.raises(LookupError) as caught:
        stackless.run()
    assert caught.value is error
    assert target.caught == [error]


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("state", STARTED)
def test_kill_ends_the_target_silently(state: str, pending: bool) -> None:
    target = Target(state)
    assert target.task.kill(pending=pending) is None
    assert target.task.alive is pending
    stackless.run()
    assert [type(error) for error in target.caught] == [TaskletExit]
    assert (target.task.alive, target.task.tempval, target.channel.balance) == (False, None, 0)


@pytest.mark.parametrize("state", STARTED)
def test_raise_exception_makes_the_exception_and_raises_it_at_once(state: str) -> None:
    target = Target(state)
    with pytest.raises(KeyError) as caught:
        target.task.raise_exception(KeyError, 1, 2)
    assert caught.value.args == (1, 2)
    assert target.caught == [caught.value]


def test_target_may_catch_and_live_on() -> None:
    caught: list[type[BaseException]] = []

    def work() -> None:
        while len(caught) < 4:
            try:
                stackless.schedule_remove()
            except (TaskletExit, LookupError) as error:
                caught.append(type(error))

    task = stackless.tasklet(work)()
    stackless.run()
    task.kill()
    task.throw(LookupError)
    task.raise_exception(LookupError)
    assert (task.alive, task.paused) == (True, True)
    task.kill()
    assert (task.alive, caught) == (False, [TaskletExit, LookupError, LookupError, TaskletExit])


def test_finally_of_a_killed_tasklet_may_switch() -> None:
    steps: list[str] = []

    def work() -> None:
        try:
            stackless.schedule_remove()
        finally:
            steps.append("before")
            stackless.schedule()
            steps.append("after")

    task = stackless.tasklet(work)()
    task.run()
    task.kill()
    assert (steps, task.alive) == (["before"], True)
    stackless.run()
    assert (steps, task.alive) == (["before", "after"], False)


# ---- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "first", "rest"), [(0, "bc", ""), (1, "c", "a"), (2, "", "ab")])
def test_kill_of_a_queued_tasklet_keeps_its_place(index: int, first: str, rest: str) -> None:
    # Its successors run before the caller goes on.
    steps: list[str] = []
    tasks = [stackless.tasklet(steps.append)(name) for name in "abc"]
    tasks[index].kill()
    assert "".join(steps) == first
    stackless.run()
    assert "".join(steps) == first + rest


@pytest.mark.parametrize("state", ["blocked in receive", "paused", "never started, paused"])
def test_kill_of_a_blocked_or_paused_tasklet_lets_nobody_else_run(state: str) -> None:
    steps: list[str] = []
    target = Target(state)
    stackless.tasklet(steps.append)("other")
    target.task.kill()
    assert (steps, target.task.alive) == ([], False)
    stackless.run()
    assert steps == ["other"]


@pytest.mark.parametrize(("state", "expected"), [("queued", "target other"), ("paused", "other target")])
def test_pending_throw_queues_at_the_end_or_keeps_the_place(state: str, expected: str) -> None:
    steps: list[str] = []

    def work() -> None:
        try:
            stackless.schedule() if state == "queued" else stackless.schedule_remove()
        except LookupError:
            steps.append("target")

    task = stackless.tasklet(work)()
    task.run()
    stackless.tasklet(steps.append)("other")
    task.throw(LookupError, pending=True)
    stackless.run()
    assert " ".join(steps) == expected


@pytest.mark.parametrize("name", ["kill", "throw", "raise_exception"])
def test_throwing_returns_tempval_of_the_caller(name: str) -> None:
    def work() -> None:
        with pytest.raises((TaskletExit, KeyError)):
            stackless.schedule_remove()

    task = stackless.tasklet(work)()
    task.run()
    value = stackless.current.tempval = object()
    assert getattr(task, name)(*([] if name == "kill" else [KeyError])) is value
    assert stackless.current.tempval is None


# ---- targets that have not started, have ended, or are current -------------------------------------------------------


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("state", NEVER_STARTED)
def test_throw_into_a_tasklet_that_has_not_started_is_an_uncaught_exception(state: str, pending: bool) -> None:
    target = Target(state)
    if not pending:
        with pytest.raises(LookupError, match="thrown"):
            target.task.throw(LookupError("thrown"))
    else:
        target.task.throw(LookupError("thrown"), pending=True)
        assert (target.task.alive, target.task.scheduled) == (True, True)
        with pytest.raises(LookupError, match="thrown"):
            stackless.run()
    assert (target.started, target.task.alive) == (False, False)


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("state", NEVER_STARTED)
def test_kill_of_a_tasklet_that_has_not_started_ends_it(state: str, pending: bool) -> None:
    target = Target(state)
    target.task.kill(pending)
    stackless.run()
    assert (target.started, target.task.alive, target.task.tempval) == (False, False, None)
    with pytest.raises(RuntimeError, match=r"unbound\(dead\)"):
        target.task.run()


@pytest.mark.parametrize("make", ["ended", "unbound", "bound"])
def test_dead_tasklet_can_be_killed_but_nothing_else_thrown_into_it(make: str) -> None:
    task = {"ended": Target("other").task, "unbound": stackless.tasklet(), "bound": stackless.tasklet(nothing)}[make]
    stackless.run()
    value = task.tempval
    for pending in (False, True):
        assert task.kill(pending) is None
        assert task.throw(TaskletExit("text"), pending=pending) is None
        with pytest.raises(RuntimeError, match=r"^You cannot throw to a dead tasklet$"):
            task.throw(LookupError, pending=pending)
    assert task.raise_exception(TaskletExit) is None
    with pytest.raises(RuntimeError, match=r"^You cannot throw to a dead tasklet$"):
        task.raise_exception(LookupError)
    assert task.tempval is value


@pytest.mark.parametrize("pending", [False, True])
def test_throw_to_the_current_tasklet_raises_directly(pending: bool) -> None:
    steps: list[str] = []
    stackless.tasklet(steps.append)("other")
    with pytest.raises(LookupError, match="mine"):
        stackless.current.throw(LookupError("mine"), pending=pending)
    with pytest.raises(KeyError):
        stackless.current.raise_exception(KeyError)
    with pytest.raises(TaskletExit):
        stackless.current.kill(pending)
    assert steps == []
    stackless.run()


def test_tasklet_may_kill_itself() -> None:
    steps: list[str] = []

    def work() -> None:
        try:
            stackless.current.kill()
        finally:
            steps.append("finally")
        steps.append("not reached")

    task = stackless.tasklet(work)()
    stackless.run()
    assert (steps, task.alive) == (["finally"], False)


@pytest.mark.parametrize("wait", ["schedule", "run", "receive"])
def test_main_tasklet_can_be_thrown_into(wait: str) -> None:
    stackless.tasklet(stackless.main.throw)(LookupError("for main"))
    call = stackless.channel().receive if wait == "receive" else getattr(stackless, wait)
    with pytest.raises(LookupError, match="for main"):
        call()
    stackless.run()


def test_main_tasklet_can_be_killed_and_go_on() -> None:
    stackless.tasklet(stackless.main.kill)()
    with pytest.raises(TaskletExit):
        stackless.run()
    stackless.run()
