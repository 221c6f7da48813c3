"""What can be thrown into a tasklet, and in which forms; bombs in `tempval`."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing() -> None:
    """Do nothing."""


class Target:
    """A tasklet in one of several states, that notes what it is woken with."""

    def __init__(self, state: str) -> None:
        self.caught: list[BaseException] = []
        self.started = False
        waits = {
            "blocked in receive": stackless.channel().receive,
            "queued": stackless.schedule,
            "paused": stackless.schedule_remove,
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


NEVER_STARTED = ["never started, queued", "never started, paused"]


def failing_function() -> None:
    raise ZeroDivisionError(1, 2)


def failed() -> tuple[object, ...]:
    """Return the three parts of an exception that was raised and caught."""
    try:
        failing_function()
    except ZeroDivisionError:
        return sys.exc_info()
    raise AssertionError


# ---- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "args"),
    [
        ((KeyError,), KeyError, ()),
        ((KeyError, None, None), KeyError, ()),
        ((KeyError, "a"), KeyError, ("a",)),
        ((KeyError, ("a", "b")), KeyError, ("a", "b")),
        ((KeyError("a", "b"),), KeyError, ("a", "b")),
        ((LookupError, KeyError("a")), KeyError, ("a",)),
    ],
)
@pytest.mark.parametrize("pending", [False, True])
def test_throw_takes_the_forms_of_raise(
    arguments: tuple[object, ...], kind: type[BaseException], args: tuple[object, ...], pending: bool
) -> None:
    target = Target("paused")
    with pytest.raises(LookupError):
        target.task.throw(*arguments, pending=pending)
        stackless.run()
    assert [(type(error), error.args) for error in target.caught] == [(kind, args)]


def test_throw_takes_keywords() -> None:
    target = Target("paused")
    kind, value, tb = failed()
    with pytest.raises(ZeroDivisionError):
        target.task.throw(exc=kind, val=value, tb=tb, pending=False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((KeyError, None, 5), "third argument must be a traceback object"),
        ((KeyError("a"), 5), "instance exception may not have a separate value"),
        ((5,), "exceptions must be classes, or instances, not int"),
        ((int,), "exceptions must be classes, or instances, not type"),
    ],
)
@pytest.mark.parametrize("target", ["paused", "current", "dead"])
def test_throw_refuses_what_cannot_be_raised(target: str, arguments: tuple[object, ...], text: str) -> None:
    tasks = {"paused": stackless.tasklet(nothing, ()), "current": stackless.current, "dead": stackless.tasklet()}
    with pytest.raises(TypeError, match=f"^{text}$"):
        tasks[target].throw(*arguments)


@pytest.mark.parametrize("wrong", [None, 5, KeyError("instance"), int])
def test_raise_exception_needs_an_exception_class(wrong: object) -> None:
    text = r"^tasklet\.raise_exception needs Exception or string subclass as first parameter$"
    with pytest.raises(TypeError, match=text):
        stackless.tasklet(nothing, ()).raise_exception(wrong)


@pytest.mark.parametrize("pending", [False, True])
def test_throw_keeps_the_traceback(pending: bool) -> None:
    target = Target("paused")
    with pytest.raises(ZeroDivisionError) as caught:
        target.task.throw(*failed(), pending=pending)
        stackless.run()
    names = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "failing_function"
    assert "work" in names


# ---- tempval ---------------------------------------------------------------------------------------------------------


def test_pending_exception_is_a_bomb_in_tempval() -> None:
    target = Target("paused")
    target.task.throw(KeyError("thrown"), pending=True)
    bomb = target.task.tempval
    assert isinstance(bomb, stackless.bomb)
    assert bomb.type is KeyError
    target.task.tempval = None
    stackless.run()
    assert (target.caught, target.task.alive) == ([], False)


def test_later_pending_exception_replaces_the_earlier() -> None:
    target = Target("blocked in receive")
    target.task.kill(pending=True)
    target.task.throw(KeyError, pending=True)
    with pytest.raises(KeyError):
        stackless.run()
    assert [type(error) for error in target.caught] == [KeyError]


@pytest.mark.parametrize("state", ["queued", "paused"])
def test_bomb_in_tempval_explodes_when_the_tasklet_goes_on(state: str) -> None:
    target = Target(state)
    target.task.tempval = stackless.bomb(KeyError, ("boom",))
    with pytest.raises(KeyError, match="boom"):
        target.task.run()
    assert [error.args for error in target.caught] == [("boom",)]


@pytest.mark.parametrize("state", NEVER_STARTED)
def test_bomb_in_tempval_explodes_instead_of_the_start(state: str) -> None:
    target = Target(state)
    target.task.tempval = stackless.bomb(*failed())
    with pytest.raises(ZeroDivisionError) as caught:
        target.task.run()
    assert not target.started
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "failing_function"


def test_bomb_in_tempval_of_the_caller_explodes_when_run_returns() -> None:
    for call in (stackless.tasklet(nothing, ()).run, stackless.tasklet(nothing, ()).switch, stackless.current.run):
        stackless.current.tempval = stackless.bomb(KeyError, ("boom",))
        with pytest.raises(KeyError, match="boom"):
            call()
        assert stackless.current.tempval is None


def test_bomb_given_to_schedule_explodes() -> None:
    for others in range(2):
        for _ in range(others):
            stackless.tasklet(nothing)()
        with pytest.raises(KeyError, match="boom"):
            stackless.schedule(stackless.bomb(KeyError, ("boom",)))
    assert stackless.runcount == 1
