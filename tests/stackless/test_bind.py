"""The life cycle of a tasklet: dead, bound, paused, scheduled, current, blocked, dead again; what each step refuses."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable

FLAGS = ("alive", "paused", "scheduled", "blocked", "is_current")


def flags(task: stackless.tasklet) -> set[str]:
    """Return the names of the flags that are set."""
    return {name for name in FLAGS if getattr(task, name)}


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


class Log(list[tuple[tuple[object, ...], dict[str, object]]]):
    """A function that notes its arguments."""

    def __call__(self, /, *args: object, **kwargs: object) -> str:
        self.append((args, kwargs))
        return "result"


# ---- binding ---------------------------------------------------------------------------------------------------------


def test_new_tasklet_is_dead_and_without_value() -> None:
    task = stackless.tasklet()
    assert (flags(task), task.tempval, task.frame) == (set(), None, None)


@pytest.mark.parametrize("make", [stackless.tasklet, lambda func: stackless.tasklet().bind(func)])
def test_bound_tasklet_is_dead_and_its_value_is_the_function(make: Callable[..., stackless.tasklet]) -> None:
    task = make(nothing)
    assert (flags(task), task.tempval) == (set(), nothing)


@pytest.mark.parametrize("arguments", [(), (None,), (None, None, None)])
def test_bind_to_nothing_unbinds(arguments: tuple[None, ...]) -> None:
    task = stackless.tasklet(nothing)
    assert task.bind(*arguments) is task
    assert (flags(task), task.tempval) == (set(), None)
    with pytest.raises(RuntimeError, match=r"^the tasklet was not bound to a function$"):
        task.setup()


@pytest.mark.parametrize(
    ("arguments", "keywords", "expected"),
    [
        (((1, 2),), {}, ((1, 2), {})),
        ((), {"args": (1, 2)}, ((1, 2), {})),
        ((None, {"a": 3}), {}, ((), {"a": 3})),
        ((), {"kwargs": {"a": 3}}, ((), {"a": 3})),
        (((1,), {"a": 3}), {}, ((1,), {"a": 3})),
        ((), {"args": (), "kwargs": {}}, ((), {})),
    ],
)
def test_bind_with_arguments_pauses(
    arguments: tuple[object, ...], keywords: dict[str, object], expected: tuple[object, object]
) -> None:
    log = Log()
    for task in (
        stackless.tasklet(nothing).bind(log, *arguments, **keywords),
        stackless.tasklet(log).bind(None, *arguments, **keywords),
        stackless.tasklet(log, *arguments, **keywords),
    ):
        assert (flags(task), task.tempval) == ({"alive", "paused"}, None)
        stackless.run()
        assert not log
        task.run()
        assert log.pop() == expected
        assert flags(task) == set()


@pytest.mark.parametrize("step", ["setup", "__call__"])
def test_setup_binds_arguments_and_schedules(step: str) -> None:
    log = Log()
    task = stackless.tasklet(log)
    assert getattr(task, step)(1, key=2) is task
    assert (flags(task), task.tempval) == ({"alive", "scheduled"}, None)
    stackless.run()
    assert log == [((1,), {"key": 2})]


def test_setup_passes_keywords_that_look_like_those_of_bind() -> None:
    log = Log()
    stackless.tasklet(log)(func=1, args=2, kwargs=3, self=4)
    stackless.run()
    assert log == [((), {"func": 1, "args": 2, "kwargs": 3, "self": 4})]


def test_bind_without_function_or_arguments_fails_for_arguments_only() -> None:
    task = stackless.tasklet()
    with pytest.raises(RuntimeError, match=r"^the tasklet was not bound to a function$"):
        task.bind(None, ())
    assert (flags(task), task.tempval) == (set(), None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((5,), "tasklet function must be a callable or None"),
        ((nothing, [1]), "tasklet args must be a tuple or None"),
        ((nothing, 1), "tasklet args must be a tuple or None"),
        ((nothing, (), []), "tasklet kwargs must be a dictionary or None"),
    ],
)
def test_bind_refuses_wrong_types(arguments: tuple[object, ...], text: str) -> None:
    task = stackless.tasklet(nothing)
    with pytest.raises(TypeError, match=f"^{text}$"):
        task.bind(*arguments)
    assert (flags(task), task.tempval) == (set(), nothing)
    with pytest.raises(TypeError, match=f"^{text}$"):
        stackless.tasklet(*arguments)


def test_bind_checks_types_before_states() -> None:
    with pytest.raises(TypeError, match=r"^tasklet function must be a callable or None$"):
        stackless.current.bind(5)


def test_bind_refuses_the_current_tasklet() -> None:
    for arguments in [(), (None,), (nothing,), (nothing, ())]:
        with pytest.raises(RuntimeError, match=r"^can't \(re\)bind the current tasklet$"):
            stackless.current.bind(*arguments)


def test_bind_refuses_a_scheduled_tasklet() -> None:
    queued = stackless.tasklet(nothing)()
    blocked = stackless.tasklet(stackless.channel().receive)()
    blocked.run()
    for task in (queued, blocked):
        for arguments in [(), (nothing,), (nothing, ())]:
            with pytest.raises(RuntimeError, match=r"^tasklet is scheduled$"):
                task.bind(*arguments)
        task.kill()


def test_bind_refuses_a_started_tasklet_and_leaves_it_as_it_is() -> None:
    log = Log()
    task = stackless.tasklet(lambda: log(sorted([0], key=lambda _: stackless.schedule_remove() and 0)))()
    stackless.run()
    assert flags(task) == {"alive", "paused"}
    for arguments in [(), (nothing,), (nothing, ())]:
        with pytest.raises(RuntimeError, match=r"^tasklet has C state on its stack$"):
            task.bind(*arguments)
    task.run()
    assert len(log) == 1


def test_main_tasklet_cannot_be_unbound() -> None:
    errors: list[BaseException] = []

    def unbind(main: stackless.tasklet) -> None:
        try:
            main.bind(None)
        except RuntimeError as error:
            errors.append(error)

    stackless.tasklet(unbind)(stackless.main)
    stackless.run()
    # With a machine stack below it, the test for C state comes first.
    assert str(errors[0]) in ("can't unbind the main tasklet", "tasklet has C state on its stack")


def test_paused_tasklet_that_has_not_started_can_be_bound_anew() -> None:
    first, second = Log(), Log()
    task = stackless.tasklet(first, (1,))
    task.bind(second, (2,))
    task.run()
    assert (first, second) == ([], [((2,), {})])


def test_removed_tasklet_that_has_not_started_can_be_unbound() -> None:
    task = stackless.tasklet(nothing)().remove()
    task.bind(None)
    assert (flags(task), task.tempval) == (set(), None)


def test_setup_of_an_alive_tasklet_raises() -> None:
    paused, queued = stackless.tasklet(nothing, ()), stackless.tasklet(nothing)()
    for task in (paused, queued, stackless.current):
        with pytest.raises(RuntimeError, match=r"^tasklet is alive$"):
            task.setup()
        with pytest.raises(RuntimeError, match=r"^tasklet is alive$"):
            task()
    queued.remove()


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_ended_tasklet_is_dead_and_can_be_used_again() -> None:
    log = Log()
    task = stackless.tasklet(log)()
    stackless.run()
    assert (flags(task), task.frame) == (set(), None)
    task.bind(log)(1)
    stackless.run()
    task.bind(log, (2,)).insert()
    stackless.run()
    assert log == [((), {}), ((1,), {}), ((2,), {})]


def test_killed_tasklet_has_no_value() -> None:
    for task in (stackless.tasklet(nothing)(), stackless.tasklet(nothing, ())):
        task.kill()
        assert (flags(task), task.tempval) == (set(), None)


def test_ended_tasklet_does_not_keep_its_function_nor_its_arguments() -> None:
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing)
    task = stackless.tasklet(nothing)(thing)
    del thing
    stackless.run()
    assert reference() is None
    assert not task.alive


def test_tasklet_without_references_that_has_ended_is_gone() -> None:
    task = stackless.tasklet(nothing)()
    reference = weakref.ref(task)
    stackless.run()
    del task
    assert reference() is None


# ---- insert, remove --------------------------------------------------------------------------------------------------


def test_insert_and_remove_move_between_paused_and_scheduled() -> None:
    task = stackless.tasklet(nothing, ())
    assert task.insert() is task
    assert flags(task) == {"alive", "scheduled"}
    assert stackless.runcount == 2
    assert task.insert() is task
    assert stackless.runcount == 2
    assert task.remove() is task
    assert flags(task) == {"alive", "paused"}
    assert stackless.runcount == 1
    assert task.remove() is task
    task.kill()


def test_insert_refuses_the_dead() -> None:
    for task in (stackless.tasklet(), stackless.tasklet(nothing)):
        for step in (task.insert, task.run, task.switch):
            with pytest.raises(RuntimeError, match=r"^You cannot run an unbound\(dead\) tasklet$"):
                step()


def test_insert_and_remove_refuse_the_blocked() -> None:
    channel = stackless.channel()
    task = stackless.tasklet(channel.receive)()
    task.run()
    assert flags(task) == {"alive", "scheduled", "blocked"}
    for step in (task.insert, task.run, task.switch):
        with pytest.raises(RuntimeError, match=r"^You cannot run a blocked tasklet$"):
            step()
    with pytest.raises(RuntimeError, match=r"^You cannot remove a blocked tasklet\.$"):
        task.remove()
    assert channel.balance == -1
    channel.send(None)
    assert flags(task) == set()


def test_insert_of_the_current_does_nothing_and_remove_is_refused() -> None:
    current = stackless.current
    assert current.insert() is current
    assert stackless.runcount == 1
    with pytest.raises(RuntimeError, match=r"^The current tasklet cannot be removed\.$"):
        current.remove()


def test_remove_of_a_dead_tasklet_does_nothing() -> None:
    task = stackless.tasklet(nothing)
    assert task.remove() is task
    assert task.tempval is nothing


# ---- what a tasklet sees of itself -----------------------------------------------------------------------------------


def test_current_tasklet_is_alive_scheduled_and_without_value() -> None:
    seen: list[tuple[set[str], object]] = []
    task = stackless.tasklet(lambda: seen.append((flags(task), task.tempval)))()
    task.run()
    assert seen == [({"alive", "scheduled", "is_current"}, None)]


def test_main_is_scheduled_during_run_of_a_tasklet_and_paused_during_switch_and_run() -> None:
    seen: list[set[str]] = []

    def look() -> None:
        seen.append(flags(stackless.main))
        stackless.main.insert()

    stackless.tasklet(look)().run()
    stackless.tasklet(look)().switch()
    stackless.tasklet(lambda: seen.append(flags(stackless.main)))()
    stackless.run()
    assert seen == [{"alive", "scheduled"}, {"alive", "paused"}, {"alive", "paused"}]


def test_frame_is_that_of_the_function_only_after_the_start() -> None:
    def work() -> None:
        stackless.schedule_remove()

    task = stackless.tasklet(work)()
    assert task.frame is None
    task.run()
    assert task.frame is not None
    assert task.frame.f_code is work.__code__
    assert stackless.current.frame is not None
    task.kill()
    assert task.frame is None
