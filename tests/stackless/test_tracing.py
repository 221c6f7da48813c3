"""What belongs to a tasklet alone: trace and profile functions, and the exception that is handled."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

KINDS = ["trace", "profile"]


class Tracer:
    """A trace or profile function that counts its calls."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.calls = 0
        self.names: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> Tracer | None:
        self.calls += 1
        self.names.add(frame.f_code.co_name)
        return self if self.kind == "trace" else None

    def install(self) -> None:
        """Use the function in the running tasklet, the way of `sys`."""
        (sys.settrace if self.kind == "trace" else sys.setprofile)(self)

    def remove(self) -> None:
        """Use no function in the running tasklet."""
        (sys.settrace if self.kind == "trace" else sys.setprofile)(None)

    def get(self, task: stackless.tasklet) -> object:
        """Return the function of the tasklet."""
        return getattr(task, f"{self.kind}_function")

    def set(self, task: stackless.tasklet, *, off: bool = False) -> None:
        """Set the function of the tasklet."""
        setattr(task, f"{self.kind}_function", None if off else self)


@pytest.fixture(params=KINDS)
def tracer(request: pytest.FixtureRequest) -> Iterator[Tracer]:
    assert sys.gettrace() is None
    assert sys.getprofile() is None
    tracer = Tracer(request.param)
    yield tracer
    sys.settrace(None)
    sys.setprofile(None)


def installed(kind: str) -> object:
    """Return the function of the running tasklet, the way of `sys`."""
    return sys.gettrace() if kind == "trace" else sys.getprofile()


def called() -> None:
    """A call to be traced."""


# ---- trace and profile functions -------------------------------------------------------------------------------------


def test_function_of_the_current_tasklet_is_that_of_sys(tracer: Tracer) -> None:
    current = stackless.current
    assert tracer.get(current) is None
    tracer.set(current)
    try:
        called()
        assert installed(tracer.kind) is tracer
        assert tracer.get(current) is tracer
    finally:
        tracer.set(current, off=True)
    assert installed(tracer.kind) is tracer.get(current) is None
    assert "called" in tracer.names


def test_function_that_sys_has_set_is_of_the_running_tasklet_only(tracer: Tracer) -> None:
    seen: list[object] = []

    def work() -> None:
        tracer.install()
        called()
        stackless.schedule()
        before = tracer.calls
        called()
        assert tracer.calls > before
        seen.append(tracer.get(stackless.current))

    task = stackless.tasklet(work)()
    stackless.schedule()
    before = tracer.calls
    called()
    assert tracer.calls == before > 0
    assert (installed(tracer.kind), tracer.get(task)) == (None, tracer)
    stackless.run()
    assert seen == [tracer]
    assert installed(tracer.kind) is None


def test_traced_main_tasklet_does_not_trace_the_others(tracer: Tracer) -> None:
    seen: list[object] = []

    def work() -> None:
        called()
        seen.append(installed(tracer.kind))

    stackless.tasklet(work)()
    tracer.install()
    stackless.run()
    tracer.remove()
    assert seen == [None]
    assert tracer.calls > 0
    assert not tracer.names & {"work", "called"}


def test_function_set_before_the_start_counts_from_the_start(tracer: Tracer) -> None:
    seen: list[object] = []

    def work() -> None:
        seen.append(installed(tracer.kind))

    task = stackless.tasklet(work)()
    tracer.set(task)
    assert tracer.get(task) is tracer
    stackless.run()
    assert seen == [tracer]
    assert "work" in tracer.names
    assert tracer.get(task) is None


def test_function_set_and_taken_back_before_the_start_is_never_called(tracer: Tracer) -> None:
    task = stackless.tasklet(called)()
    tracer.set(task)
    tracer.set(task, off=True)
    assert tracer.get(task) is None
    stackless.run()
    assert tracer.calls == 0


@pytest.mark.parametrize("in_c", [False, True])
def test_function_can_be_changed_while_the_tasklet_waits(tracer: Tracer, in_c: bool) -> None:
    seen: list[object] = []

    def work(_: object = None) -> int:
        stackless.schedule()
        seen.append(installed(tracer.kind))
        called()
        stackless.schedule()
        seen.append(installed(tracer.kind))
        return 0

    task = stackless.tasklet(lambda: sorted([1], key=work) if in_c else work())()
    stackless.schedule()
    tracer.set(task)
    assert installed(tracer.kind) is None
    stackless.schedule()
    assert "called" in tracer.names
    tracer.set(task, off=True)
    before = tracer.calls
    stackless.run()
    assert (seen, tracer.calls) == ([tracer, None], before)


def test_both_functions_can_be_set() -> None:
    trace, profile = Tracer("trace"), Tracer("profile")
    task = stackless.tasklet(called)()
    trace.set(task)
    profile.set(task)
    assert (task.trace_function, task.profile_function) == (trace, profile)
    stackless.run()
    assert trace.calls > 0
    assert profile.calls > 0
    assert (sys.gettrace(), sys.getprofile()) == (None, None)


def test_function_of_the_current_tasklet_of_another_thread_cannot_be_set(tracer: Tracer) -> None:
    main, errors = stackless.current, []

    def thread_function() -> None:
        for off in (False, True):
            with pytest.raises(RuntimeError) as caught:
                tracer.set(main, off=off)
            errors.append(str(caught.value))

    thread = threading.Thread(target=thread_function)
    thread.start()
    thread.join()
    assert set(errors) == {f"You cannot set the {tracer.kind} function of the current tasklet of another thread"}


def test_trace_function_may_switch() -> None:
    counts, inside = [0, 0], []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        # While a trace function runs nothing is traced, in this tasklet; the flag for that must survive a switch.
        before = list(counts)
        counts[0] += 1
        called()
        assert counts[0] == before[0] + 1
        stackless.schedule()
        counts[1] += 1
        inside.append(stackless.current.trace_function)
        return trace

    tasks = [stackless.tasklet(called)() for _ in range(2)]
    for task in tasks:
        task.trace_function = trace
    stackless.run()
    assert sys.gettrace() is None
    assert counts[0] == counts[1] > 2
    assert set(inside) == {trace}


# ---- the exception that is handled -----------------------------------------------------------------------------------


def handles(error: BaseException, seen: list[object], during: Callable[[], object]) -> Callable[[], None]:
    """Return a function that handles an exception while it does something, and notes what it sees."""

    def work() -> None:
        try:
            raise error
        except type(error):
            during()
            seen.append(sys.exception())
        seen.append(sys.exception())

    return work


def test_handled_exception_is_of_the_tasklet() -> None:
    first, second, seen = LookupError("first"), ValueError("second"), []
    for error in (first, second):
        stackless.tasklet(handles(error, seen, stackless.schedule))()
    stackless.schedule()
    assert sys.exc_info() == (None, None, None)
    stackless.run()
    assert seen == [first, None, second, None]
    assert sys.exc_info() == (None, None, None)


def test_exception_handled_by_main_is_not_seen_by_others() -> None:
    seen: list[object] = []

    def work() -> None:
        seen.append(sys.exception())
        stackless.schedule()
        seen.append(sys.exception())
        with pytest.raises(RuntimeError, match="No active exception"):
            raise  # noqa: PLE0704

    mine = KeyError()
    stackless.tasklet(work)()
    handles(mine, seen, stackless.schedule)()
    stackless.run()
    assert seen == [None, mine, None, None]


def test_bare_raise_raises_the_exception_of_the_tasklet() -> None:
    def work(error: BaseException) -> None:
        try:
            raise error
        except LookupError:
            stackless.schedule()
            raise

    errors = [LookupError(number) for number in range(2)]
    for error in errors:
        stackless.tasklet(work)(error)
    stackless.schedule()
    for error in errors:
        with pytest.raises(LookupError) as caught:
            stackless.run()
        assert caught.value is error
        assert caught.value.__context__ is None


def test_context_of_exceptions_is_of_the_tasklet() -> None:
    caught: list[BaseException | None] = []

    def work() -> None:
        try:
            try:
                raise KeyError
            except KeyError:
                stackless.schedule()
                raise ValueError  # noqa: B904
        except ValueError as error:
            caught.append(error.__context__)

    stackless.tasklet(work)()
    stackless.schedule()
    with contextlib.suppress(LookupError):
        raise LookupError
    stackless.run()
    assert [type(error) for error in caught] == [KeyError]
