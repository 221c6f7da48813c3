"""What the interpreter keeps per thread is kept per tasklet: handled exceptions, contexts, tracing, frames."""

from __future__ import annotations

import contextvars
import decimal
import inspect
import sys
import threading
import traceback
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="default")


def together(*functions: object) -> list[object]:
    """Run the functions in a tasklet each and return their results."""
    tasklets = [lissom.spawn(function) for function in functions]
    return [lissom.join(tasklet) for tasklet in tasklets]


# ---- exceptions ------------------------------------------------------------------------------------------------------


def test_exc_info_is_that_of_the_tasklet_across_switches() -> None:
    def handle(kind: type[Exception]) -> bool:
        try:
            raise kind("mine")
        except kind as error:
            for _ in range(3):
                lissom.schedule()
                assert sys.exc_info()[:2] == (kind, error)
            return True
        finally:
            lissom.schedule()
            assert sys.exc_info() == (None, None, None)

    assert together(*[lambda kind=kind: handle(kind) for kind in (ValueError, KeyError, OSError)]) == [True] * 3
    assert sys.exc_info() == (None, None, None)


def test_new_tasklet_handles_no_exception() -> None:
    try:
        raise ValueError
    except ValueError:
        assert together(sys.exc_info) == [(None, None, None)]
        assert sys.exc_info()[0] is ValueError


def test_bare_raise_after_a_switch_raises_the_tasklets_own_exception() -> None:
    def handle(kind: type[Exception]) -> str:
        try:
            try:
                raise kind("mine")
            except kind:
                lissom.schedule()
                raise
        except kind as error:
            return type(error).__name__

    assert together(lambda: handle(ValueError), lambda: handle(KeyError)) == ["ValueError", "KeyError"]


def test_exception_context_is_that_of_the_tasklet() -> None:
    def chain(first: type[Exception], second: type[Exception]) -> type[BaseException]:
        try:
            try:
                raise first
            except first:
                lissom.schedule()
                raise second  # noqa: B904
        except second as error:
            return type(error.__context__)

    assert together(lambda: chain(KeyError, OSError), lambda: chain(ValueError, TypeError)) == [KeyError, ValueError]


def test_generators_keep_their_exceptions_when_tasklets_switch_inside() -> None:
    def numbers() -> Iterator[type[BaseException] | None]:
        try:
            raise KeyError
        except KeyError:
            lissom.schedule()
            yield sys.exc_info()[0]
            lissom.schedule()
            yield sys.exc_info()[0]

    def consume() -> list[object]:
        try:
            raise OSError
        except OSError:
            return [(kind, sys.exc_info()[0]) for kind in numbers()]

    assert together(consume, consume) == [[(KeyError, OSError)] * 2] * 2


def test_generator_may_be_resumed_by_another_tasklet() -> None:
    def numbers() -> Iterator[object]:
        for number in range(4):
            yield number, lissom.getcurrent()

    generator = numbers()

    def take() -> object:
        return next(generator), next(generator)

    first, second = lissom.spawn(take), lissom.spawn(take)
    assert lissom.join(first) == ((0, first), (1, first))
    assert lissom.join(second) == ((2, second), (3, second))


# ---- contexts --------------------------------------------------------------------------------------------------------


def test_spawned_tasklet_shares_the_context_object_of_its_creator() -> None:
    def run() -> tuple[str, str, str]:
        VARIABLE.set("creator")
        seen = []

        def work() -> None:
            seen.append(VARIABLE.get())
            VARIABLE.set("tasklet")
            lissom.schedule()

        tasklet = lissom.spawn(work)
        lissom.schedule()
        after = VARIABLE.get()
        lissom.join(tasklet)
        return seen[0], after, VARIABLE.get()

    assert contextvars.copy_context().run(run) == ("creator", "tasklet", "tasklet")


def test_context_is_taken_when_the_tasklet_is_made() -> None:
    def make() -> lissom.tasklet:
        VARIABLE.set("inside")
        return lissom.spawn(VARIABLE.get)

    tasklet = contextvars.copy_context().run(make)
    assert VARIABLE.get() == "default"
    assert lissom.join(tasklet) == "inside"


def test_context_run_across_switches() -> None:
    def work(name: str) -> list[str]:
        seen = []

        def inside() -> None:
            VARIABLE.set(name)
            for _ in range(3):
                lissom.schedule()
                seen.append(VARIABLE.get())

        contextvars.Context().run(inside)
        seen.append(VARIABLE.get())
        return seen

    expected = [[name] * 3 + ["default"] for name in "ab"]
    assert together(lambda: work("a"), lambda: work("b")) == expected


def test_context_variable_cache_is_not_taken_from_another_tasklet() -> None:
    def work(name: str) -> bool:
        def inside() -> bool:
            VARIABLE.set(name)
            return all(VARIABLE.get() == name for _ in range(1000) if lissom.schedule())

        return contextvars.Context().run(inside)

    assert together(*[lambda name=name: work(name) for name in "abc"]) == [True] * 3


def test_threads_start_with_an_empty_context_and_decimal_contexts_are_their_own() -> None:
    lissom.hook()
    try:
        token = VARIABLE.set("main")
        seen = []

        def work(precision: int) -> None:
            seen.append(VARIABLE.get())
            decimal.getcontext().prec = precision
            lissom.sleep(0)
            seen.append(decimal.getcontext().prec)

        precision = decimal.getcontext().prec
        threads = [threading.Thread(target=work, args=[number]) for number in (3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        if getattr(sys.flags, "thread_inherit_context", 0) == 0:
            assert sorted(seen, key=str) == [3, 4, "default", "default"]
        assert decimal.getcontext().prec == precision
        VARIABLE.reset(token)
    finally:
        lissom.unhook()


# ---- tracing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_trace_and_profile_functions_are_those_of_the_tasklet(kind: str) -> None:
    setter = getattr(sys, f"set{kind}")
    getter = getattr(sys, f"get{kind}")
    before = getter()
    events: dict[str, list[str]] = {"a": [], "b": []}

    def called_by_a() -> None:
        lissom.schedule()

    def called_by_b() -> None:
        lissom.schedule()

    def work(name: str, function: object) -> bool:
        def note(frame: FrameType, event: str, arg: object) -> object:
            if event == "call":
                events[name].append(frame.f_code.co_name)
            return note

        setter(note)
        for _ in range(3):
            function()
        same = getter() is note
        setter(None)
        return same

    assert together(lambda: work("a", called_by_a), lambda: work("b", called_by_b)) == [True, True]
    assert getter() is before
    assert set(events["a"]) >= {"called_by_a"}
    assert "called_by_b" not in events["a"]
    assert set(events["b"]) >= {"called_by_b"}
    assert "called_by_a" not in events["b"]


def test_new_tasklet_is_not_traced_and_a_trace_ends_with_its_tasklet() -> None:
    seen: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> object:
        seen.append(frame.f_code.co_name)
        return note

    def traced() -> None:
        sys.settrace(note)
        lissom.schedule()

    def untraced() -> None:
        lissom.schedule()

    before = sys.gettrace()
    together(traced, untraced)
    assert sys.gettrace() is before
    assert "untraced" not in seen


def test_tracing_works_line_by_line_across_switches() -> None:
    lines: list[int] = []

    def target() -> None:
        lissom.schedule()
        lissom.schedule()

    def note(frame: FrameType, event: str, arg: object) -> object:
        if frame.f_code is target.__code__ and event == "line":
            lines.append(frame.f_lineno - target.__code__.co_firstlineno)
        return note

    def work() -> None:
        sys.settrace(note)
        target()
        sys.settrace(None)

    together(work, target)
    assert lines == [1, 2]


# ---- frames ----------------------------------------------------------------------------------------------------------


def test_stack_of_a_tasklet_begins_with_its_function() -> None:
    def function() -> list[str]:
        return [frame.function for frame in inspect.stack()]

    assert together(function) == [["function"]]


def test_traceback_of_a_waiting_tasklet_can_be_printed() -> None:
    def waits_here() -> None:
        lissom.schedule_remove()

    tasklet = lissom.spawn(waits_here)
    lissom.schedule()
    text = "".join(traceback.format_stack(tasklet.frame))
    assert "waits_here" in text
    assert "lissom.schedule_remove()" in text
    tasklet.kill()


def test_frame_object_outlives_its_tasklet() -> None:
    def function() -> FrameType:
        local = "kept"  # noqa: F841 (read through the frame)
        lissom.schedule()
        return sys._getframe()

    (frame,) = together(function)
    assert frame.f_locals["local"] == "kept"
    assert frame.f_back is None


def test_frames_of_a_generator_can_be_walked_in_a_waiting_tasklet() -> None:
    def generator() -> Iterator[None]:
        lissom.schedule_remove()
        yield

    def function() -> None:
        list(generator())

    tasklet = lissom.spawn(function)
    lissom.schedule()
    names = [frame.f_code.co_name for frame, _ in traceback.walk_stack(tasklet.frame)]
    assert names == ["generator", "function"]
    tasklet.kill()


def test_recursion_limit_set_while_a_tasklet_waits_applies_to_it() -> None:
    def depth() -> int:
        try:
            return 1 + depth()
        except RecursionError:
            return 1

    def work() -> tuple[int, int]:
        before = depth()
        lissom.schedule()
        return before, depth()

    limit = sys.getrecursionlimit()
    tasklet = lissom.spawn(work)
    lissom.schedule()
    sys.setrecursionlimit(limit // 2)
    try:
        before, after = lissom.join(tasklet)
    finally:
        sys.setrecursionlimit(limit)
    assert limit * 0.9 < before <= limit
    assert limit * 0.45 < after <= limit // 2


def test_recursion_depth_is_that_of_the_tasklet() -> None:
    def descend(depth: int) -> int:
        return lissom.schedule(depth) if depth == 0 else descend(depth - 1)

    deep = sys.getrecursionlimit() // 2
    assert together(*[lambda: descend(deep)] * 5) == [0] * 5


def test_async_generator_hooks_are_those_of_a_thread() -> None:
    lissom.hook()
    try:

        def hooks() -> object:
            return sys.get_asyncgen_hooks().finalizer

        def finalizer(generator: object) -> None:
            pass

        sys.set_asyncgen_hooks(finalizer=finalizer)
        assert together(hooks) == [None]
        assert hooks() is finalizer
    finally:
        sys.set_asyncgen_hooks(finalizer=None)
        lissom.unhook()
