"""The life of a tasklet: made, bound, queued, run, ended; and joining it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing() -> None:
    """Do nothing."""


def paused(func: Callable[[], object]) -> lissom.tasklet:
    """Return a tasklet that has run until its first `schedule_remove` and is in no queue."""
    tasklet = lissom.spawn(func)
    lissom.schedule()
    assert tasklet.paused
    return tasklet


# ---- spawning --------------------------------------------------------------------------------------------------------


def test_spawn_passes_arguments_and_does_not_switch() -> None:
    seen: list[object] = []
    tasklet = lissom.spawn(lambda *args, **kwargs: seen.append((args, kwargs)), 1, 2, key=3)
    assert not seen
    assert (tasklet.alive, tasklet.scheduled, tasklet.blocked, tasklet.paused) == (True, True, False, False)
    lissom.schedule()
    assert seen == [((1, 2), {"key": 3})]
    assert (tasklet.alive, tasklet.scheduled, tasklet.blocked, tasklet.paused) == (False, False, False, False)


def test_spawn_gives_the_keyword_func_to_the_function() -> None:
    assert lissom.join(lissom.spawn(lambda func, args: (func, args), func=1, args=2)) == (1, 2)


@pytest.mark.parametrize("wrong", [(), (5,), (None,)])
def test_spawn_of_what_cannot_be_called_raises_type_error(wrong: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match=r"spawn\(\)"):
        lissom.spawn(*wrong)


def test_spawned_tasklets_run_in_the_order_of_spawning() -> None:
    order: list[int] = []
    for number in range(5):
        lissom.spawn(order.append, number)
    lissom.run()
    assert order == [0, 1, 2, 3, 4]


def test_spawn_from_within_a_tasklet_runs() -> None:
    def outer() -> object:
        return lissom.join(lissom.spawn(lambda: "inner"))

    assert lissom.join(lissom.spawn(outer)) == "inner"


def test_spawned_tasklet_that_nobody_refers_to_runs_to_its_end() -> None:
    steps: list[int] = []

    def work() -> None:
        for step in range(3):
            steps.append(step)
            lissom.sleep(0)

    lissom.spawn(work)
    lissom.run()
    assert steps == [0, 1, 2]


# ---- joining ---------------------------------------------------------------------------------------------------------


def test_join_returns_the_result() -> None:
    assert lissom.join(lissom.spawn(lambda: 42)) == 42


def test_join_after_the_end_returns_the_result_again_and_again() -> None:
    tasklet = lissom.spawn(lambda: [1])
    lissom.run()
    assert lissom.join(tasklet) is lissom.join(tasklet)


def test_join_raises_the_exception_with_the_traceback_of_the_tasklet() -> None:
    def failing_function() -> None:
        raise LookupError("gone")

    tasklet = lissom.spawn(failing_function)
    with pytest.raises(LookupError, match="gone") as caught:
        lissom.join(tasklet)
    assert caught.traceback[-1].name == "failing_function"
    assert not tasklet.alive


def test_join_with_a_timeout_raises_timeout_error_and_leaves_the_tasklet_alone() -> None:
    go = lissom.channel()
    tasklet = lissom.spawn(go.receive)
    with pytest.raises(TimeoutError):
        lissom.join(tasklet, timeout=0.01)
    assert tasklet.blocked
    go.send("late")
    assert lissom.join(tasklet) == "late"


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_join_that_may_not_wait_raises_timeout_error_at_once(timeout: float) -> None:
    tasklet = lissom.spawn(nothing)
    with pytest.raises(TimeoutError):
        lissom.join(tasklet, timeout)
    assert tasklet.scheduled
    lissom.run()


def test_join_of_an_ended_tasklet_ignores_the_timeout() -> None:
    tasklet = lissom.spawn(lambda: 7)
    lissom.run()
    assert lissom.join(tasklet, 0) == 7


def test_join_by_many_gives_each_the_result() -> None:
    tasklet = lissom.spawn(lambda: (lissom.schedule(), "result")[1])
    joiners = [lissom.spawn(lissom.join, tasklet) for _ in range(10)]
    assert [lissom.join(joiner) for joiner in joiners] == ["result"] * 10


def test_join_by_many_gives_each_the_exception() -> None:
    def fail() -> None:
        lissom.schedule()
        raise LookupError

    def attempt(tasklet: lissom.tasklet) -> str:
        try:
            lissom.join(tasklet)
        except LookupError:
            return "raised"
        return "not raised"

    tasklet = lissom.spawn(fail)
    joiners = [lissom.spawn(attempt, tasklet) for _ in range(3)]
    assert [lissom.join(joiner) for joiner in joiners] == ["raised"] * 3


def test_join_of_itself_raises_runtime_error() -> None:
    def join_myself() -> None:
        with pytest.raises(RuntimeError, match="itself"):
            lissom.join(lissom.getcurrent())

    lissom.join(lissom.spawn(join_myself))


def test_join_of_a_killed_tasklet_returns_none() -> None:
    tasklet = lissom.spawn(lissom.sleep, 60)
    lissom.schedule()
    tasklet.kill()
    assert lissom.join(tasklet) is None


def test_join_of_something_else_raises_type_error() -> None:
    with pytest.raises(TypeError, match="tasklet is needed, not int"):
        lissom.join(5)


def test_killed_joiner_leaves_the_tasklet_alone() -> None:
    go = lissom.channel()
    tasklet = lissom.spawn(go.receive)
    joiner = lissom.spawn(lissom.join, tasklet)
    lissom.schedule()
    joiner.kill()
    go.send(1)
    assert lissom.join(tasklet) == 1


# ---- the type --------------------------------------------------------------------------------------------------------


def test_new_tasklet_is_dead_until_it_is_bound() -> None:
    tasklet = lissom.tasklet()
    assert (tasklet.alive, tasklet.paused, tasklet.scheduled, tasklet.frame) == (False, False, False, None)
    with pytest.raises(RuntimeError, match="not bound"):
        tasklet.setup()
    with pytest.raises(RuntimeError, match="dead"):
        tasklet.insert()


def test_bind_to_a_function_alone_leaves_it_dead_and_tempval_is_the_function() -> None:
    tasklet = lissom.tasklet(nothing)
    assert not tasklet.alive
    assert tasklet.tempval is nothing


@pytest.mark.parametrize("arguments", [{"args": (2,)}, {"kwargs": {"x": 2}}])
def test_bind_with_arguments_pauses_and_insert_queues(arguments: dict[str, object]) -> None:
    tasklet = lissom.tasklet(lambda x: x * 2, **arguments)
    assert (tasklet.alive, tasklet.paused, tasklet.scheduled) == (True, True, False)
    assert tasklet.insert() is tasklet
    assert tasklet.scheduled
    assert lissom.join(tasklet) == 4


def test_call_sets_the_arguments_and_queues() -> None:
    tasklet = lissom.tasklet(lambda a, b: a + b)
    assert tasklet(1, b=2) is tasklet
    assert tasklet.scheduled
    assert lissom.join(tasklet) == 3
    assert tasklet.tempval is None


def test_ended_tasklet_can_be_bound_and_run_again() -> None:
    tasklet = lissom.tasklet(lambda: 1)()
    lissom.run()
    assert lissom.join(tasklet.bind(lambda x: x)(2)) == 2
    assert lissom.join(tasklet.bind(lambda x: x, (3,)).insert()) == 3


def test_setup_of_an_alive_tasklet_raises_and_changes_nothing() -> None:
    tasklet = lissom.spawn(lambda: "kept")
    with pytest.raises(RuntimeError, match="tasklet is alive"):
        tasklet.setup("other")
    assert lissom.join(tasklet) == "kept"


def test_bind_refuses_the_current_the_queued_and_the_started() -> None:
    with pytest.raises(RuntimeError, match="current tasklet"):
        lissom.getcurrent().bind(nothing)
    queued = lissom.spawn(nothing)
    with pytest.raises(RuntimeError, match="tasklet is scheduled"):
        queued.bind(nothing)
    lissom.run()
    started = paused(lissom.schedule_remove)
    with pytest.raises(RuntimeError, match="C state"):
        started.bind(nothing)
    started.kill()


def test_bind_to_none_unbinds() -> None:
    tasklet = lissom.tasklet(nothing, ())
    tasklet.bind()
    assert not tasklet.alive
    with pytest.raises(RuntimeError, match="not bound"):
        tasklet.setup()


def test_bind_to_what_cannot_be_called_raises_type_error() -> None:
    with pytest.raises(TypeError, match="tasklet function must be a callable or None"):
        lissom.tasklet(5)


def test_remove_pauses_and_insert_goes_on_where_it_was() -> None:
    order: list[int] = []

    def work() -> None:
        for step in range(3):
            order.append(step)
            lissom.schedule()

    tasklet = lissom.spawn(work)
    lissom.schedule()
    assert tasklet.remove() is tasklet
    assert tasklet.paused
    lissom.run()
    assert order == [0]
    tasklet.insert()
    lissom.run()
    assert order == [0, 1, 2]


def test_remove_refuses_the_current_and_the_blocked() -> None:
    with pytest.raises(RuntimeError, match="current tasklet cannot be removed"):
        lissom.getcurrent().remove()
    channel = lissom.channel()
    blocked = lissom.spawn(channel.receive)
    lissom.schedule()
    with pytest.raises(RuntimeError, match="cannot remove a blocked tasklet"):
        blocked.remove()
    channel.send(None)


def test_run_switches_at_once_and_the_caller_stays_queued() -> None:
    order: list[str] = []
    lissom.spawn(order.append, "first")
    last = lissom.spawn(order.append, "last")
    last.run()
    assert order == ["last"]
    lissom.run()
    assert order == ["last", "first"]


def test_run_refuses_the_blocked_and_the_dead() -> None:
    channel = lissom.channel()
    blocked = lissom.spawn(channel.receive)
    lissom.schedule()
    with pytest.raises(RuntimeError, match="cannot run a blocked tasklet"):
        blocked.run()
    channel.send(None)
    lissom.run()
    with pytest.raises(RuntimeError, match=r"unbound\(dead\)"):
        blocked.run()


def test_main_and_current_are_known() -> None:
    main = lissom.getmain()
    assert lissom.getcurrent() is main
    assert (main.is_main, main.is_current, main.alive) == (True, True, True)

    def look() -> tuple[bool, bool, bool]:
        me = lissom.getcurrent()
        return me.is_main, me.is_current, lissom.getmain() is main

    assert lissom.join(lissom.spawn(look)) == (False, True, True)


def test_subclass_keeps_its_type_attributes_and_own_init() -> None:
    class Worker(lissom.tasklet):
        def __init__(self, name: str) -> None:
            super().__init__(self.work)
            self.name = name

        def work(self) -> str:
            return self.name

    worker = Worker("Ada")
    assert lissom.join(worker()) == "Ada"


def test_tasklet_can_be_referred_to_weakly() -> None:
    tasklet = lissom.spawn(nothing)
    reference = weakref.ref(tasklet)
    lissom.join(tasklet)
    del tasklet
    assert reference() is None


def test_frame_of_a_waiting_tasklet_can_be_walked() -> None:
    def inner() -> None:
        lissom.schedule_remove()

    def outer() -> None:
        marker = "seen"  # noqa: F841 (read through the frame)
        inner()

    tasklet = paused(outer)
    frame = tasklet.frame
    assert frame is not None
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        if frame.f_code.co_name == "outer":
            assert frame.f_locals["marker"] == "seen"
        frame = frame.f_back
    assert names == ["inner", "outer"]
    tasklet.kill()
    assert tasklet.frame is None


def test_waits_for_names_what_a_tasklet_waits_for() -> None:
    channel = lissom.channel()
    receiver, sleeper = lissom.spawn(channel.receive), lissom.spawn(lissom.sleep, 60)
    lissom.schedule()
    assert receiver.waits_for is not None
    assert "sender" in receiver.waits_for
    assert sleeper.waits_for == "time"
    assert lissom.getcurrent().waits_for is None
    receiver.kill()
    sleeper.kill()


def test_repr_names_the_state() -> None:
    tasklet = lissom.tasklet()
    assert "dead" in repr(tasklet)
    assert "bound" in repr(tasklet.bind(lissom.schedule_remove))
    assert "ready" in repr(tasklet.setup())
    lissom.schedule()
    assert "started" in repr(tasklet)
    assert "main" in repr(lissom.getmain())
    tasklet.kill()
