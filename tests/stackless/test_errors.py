"""What becomes of an exception that leaves a tasklet: the error handler, run(), the main tasklet, SystemExit."""

from __future__ import annotations

import sys
import threading
import traceback
from types import TracebackType
from typing import TYPE_CHECKING

import pytest
import stackless
from lissom import TaskletExit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Script


def failing_function(error: BaseException) -> None:
    raise error


def failing(error: BaseException) -> stackless.tasklet:
    """Return a queued tasklet that raises `error`."""
    return stackless.tasklet(failing_function)(error)


class Handler(list[tuple[object, ...]]):
    """An error handler that notes what it gets and in which tasklet."""

    def __call__(self, kind: type[BaseException], value: BaseException, tb: TracebackType | None) -> None:
        self.append((kind, value, type(tb), stackless.current))


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    stackless.set_error_handler(handler)
    yield handler
    stackless.set_error_handler(None)


# ---- delivery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LookupError, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_exception_is_raised_in_run(kind: type[BaseException]) -> None:
    error = kind("text")
    task = failing(error)
    with pytest.raises(kind, match="text") as caught:
        stackless.run()
    assert caught.value is error
    assert (task.alive, task.tempval) == (False, None)


def test_exception_keeps_its_traceback() -> None:
    failing(LookupError())
    with pytest.raises(LookupError) as caught:
        stackless.run()
    names = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "failing_function"
    assert names[0] == "test_exception_keeps_its_traceback"


def test_each_run_gets_one_exception() -> None:
    for number in range(3):
        failing(LookupError(number))
    for number in range(3):
        with pytest.raises(LookupError) as caught:
            stackless.run()
        assert caught.value.args == (number,)
    stackless.run()


def test_exception_wakes_a_main_tasklet_that_is_blocked() -> None:
    channel = stackless.channel()
    failing(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        channel.receive()
    assert (channel.balance, channel.queue, stackless.current.blocked) == (0, None, False)


def test_exception_wakes_main_before_the_others_in_the_queue() -> None:
    steps: list[str] = []
    failing(LookupError())
    stackless.tasklet(steps.append)("later")
    with pytest.raises(LookupError):
        stackless.schedule()
    assert steps == []
    stackless.run()
    assert steps == ["later"]


def test_exception_of_a_tasklet_that_main_has_run_is_raised_there() -> None:
    for step in ("run", "switch"):
        with pytest.raises(LookupError):
            getattr(failing(LookupError()), step)()


def test_exception_goes_to_main_and_not_to_the_tasklet_that_ran_it() -> None:
    caught: list[object] = []

    def work() -> None:
        try:
            failing(LookupError("gone")).run()
        except LookupError:
            caught.append("here")

    task = stackless.tasklet(work)()
    with pytest.raises(LookupError, match="gone"):
        stackless.run()
    assert (caught, task.scheduled) == ([], True)
    stackless.run()


def test_exception_does_not_get_the_one_handled_by_main_as_context() -> None:
    failing(LookupError())
    with pytest.raises(LookupError) as caught:
        try:
            raise KeyError
        except KeyError:
            stackless.run()
    assert sys.exception() is None
    assert caught.value.__traceback__ is not None


def test_tasklet_exit_ends_a_tasklet_silently(handler: Handler) -> None:
    for error in (TaskletExit(), TaskletExit(5), type("Mine", (TaskletExit,), {})()):
        task = failing(error)
        stackless.run()
        assert (task.alive, task.tempval) == (False, None)
    assert handler == []


# ---- SystemExit ------------------------------------------------------------------------------------------------------


def test_system_exit_of_a_tasklet_is_raised_in_main(handler: Handler) -> None:
    failing(SystemExit(7))
    with pytest.raises(SystemExit) as caught:
        stackless.run()
    assert caught.value.code == 7
    assert handler == []


def test_system_exit_is_raised_in_main_and_not_in_the_innermost_run() -> None:
    steps: list[str] = []

    def runner() -> None:
        failing(SystemExit(7))
        try:
            stackless.run()
        except SystemExit:
            steps.append("in the tasklet")

    task = stackless.tasklet(runner)()
    with pytest.raises(SystemExit):
        stackless.run()
    assert steps == []
    task.kill()


def test_system_exit_of_a_tasklet_ends_the_program(script: Script) -> None:
    done = script(
        """
        import atexit, stackless, sys
        atexit.register(print, "atexit")
        stackless.tasklet(sys.exit)(7)
        try:
            stackless.run()
        finally:
            print("finally")
        """,
        check=False,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (7, ["finally", "atexit"], "")


def test_system_exit_in_another_thread_is_silent(handler: Handler) -> None:
    steps: list[str] = []

    def thread_function() -> None:
        failing(SystemExit(7))
        stackless.run()
        steps.append("after")

    thread = threading.Thread(target=thread_function)
    thread.start()
    thread.join()
    assert (steps, handler) == (["after"], [])


# ---- the error handler -----------------------------------------------------------------------------------------------


def test_set_error_handler_returns_the_one_before() -> None:
    first, second = (lambda *_: None), (lambda *_: None)
    assert stackless.set_error_handler(first) is None
    assert stackless.set_error_handler(second) is first
    assert stackless.set_error_handler() is second
    assert stackless.set_error_handler(None) is None


def test_handler_gets_the_exception_in_the_dying_tasklet(handler: Handler) -> None:
    error = LookupError("gone")
    task = failing(error)
    assert stackless.run() is None
    assert handler == [(LookupError, error, TracebackType, task)]
    assert not task.alive


@pytest.mark.parametrize("step", ["run", "switch"])
def test_handler_spares_who_has_run_the_tasklet(handler: Handler, step: str) -> None:
    task = failing(LookupError())
    getattr(task, step)()
    assert [entry[3] for entry in handler] == [task]


def test_handler_may_return_anything() -> None:
    stackless.set_error_handler(lambda *_: ["ignored"])
    failing(LookupError())
    assert stackless.run() is None
    stackless.set_error_handler(None)


def test_handler_is_called_for_a_tasklet_that_never_started(handler: Handler) -> None:
    for pending in (False, True):
        task = stackless.tasklet(failing_function)(KeyError())
        task.throw(LookupError("thrown"), pending=pending)
        assert len(handler) == (not pending)
        stackless.run()
        kind, value, _, current = handler.pop()
        assert (kind, str(value), current) == (LookupError, "thrown", task)
        assert not task.alive


def test_error_in_the_handler_is_delivered_instead() -> None:
    def broken(_: object, value: BaseException, __: object) -> None:
        calls.append(value)
        raise KeyError("broken")

    calls: list[BaseException] = []
    error = LookupError("gone")
    failing(error)
    stackless.set_error_handler(broken)
    with pytest.raises(KeyError, match="broken") as caught:
        stackless.run()
    stackless.set_error_handler(None)
    assert calls == [error]
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "broken"


def test_handler_that_removes_itself_is_called_once() -> None:
    calls: list[object] = []

    def once(*_: object) -> None:
        calls.append(stackless.set_error_handler(None))

    stackless.set_error_handler(once)
    failing(LookupError("first"))
    failing(LookupError("second"))
    with pytest.raises(LookupError, match="second"):
        stackless.run()
    assert calls == [once]


def test_handler_may_switch() -> None:
    channel, steps = stackless.channel(), []

    def report(_: object, value: BaseException, __: object) -> None:
        stackless.schedule()
        channel.send(value)
        steps.append("reported")

    stackless.set_error_handler(report)
    error = LookupError("gone")
    task = failing(error)
    assert channel.receive() is error
    assert task.alive
    stackless.run()
    stackless.set_error_handler(None)
    assert (steps, task.alive) == (["reported"], False)


def test_handler_is_for_all_threads(handler: Handler) -> None:
    def thread_function() -> None:
        failing(LookupError("in a thread"))
        stackless.run()

    thread = threading.Thread(target=thread_function)
    thread.start()
    thread.join()
    assert [str(value) for _, value, _, _ in handler] == ["in a thread"]


def test_handler_is_not_called_for_the_main_tasklet(handler: Handler) -> None:
    with pytest.raises(LookupError):
        failing_function(LookupError())
    assert handler == []


def test_exception_that_a_tasklet_handles_is_not_seen_outside() -> None:
    def work() -> None:
        try:
            raise LookupError
        except LookupError:
            stackless.schedule()

    stackless.tasklet(work)()
    stackless.schedule()
    assert sys.exception() is None
    stackless.run()
    assert sys.exception() is None
