"""The types: subclassing, weak references, what can be set and what cannot, `bomb`, `repr`."""

from __future__ import annotations

import copy
import pickle
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import stackless

if TYPE_CHECKING:
    from types import TracebackType

READ_ONLY = [
    "alive", "paused", "blocked", "scheduled", "restorable", "atomic", "ignore_nesting", "is_main", "is_current",
    "thread_id", "next", "prev", "frame", "nesting_level", "recursion_depth", "cstate", "_channel", "context_id",
]  # fmt: skip
NO_ARGUMENTS = ["insert", "remove", "run", "switch", "__reduce__"]


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def failed() -> tuple[type[BaseException], BaseException, TracebackType]:
    """Return the three parts of an exception that was raised and caught."""
    try:
        raise ZeroDivisionError(1, 2)
    except ZeroDivisionError:
        kind, value, traceback = sys.exc_info()
    assert kind is not None
    assert value is not None
    assert traceback is not None
    return kind, value, traceback


# ---- tasklet ---------------------------------------------------------------------------------------------------------


def test_subclass_of_tasklet_has_an_init_of_its_own() -> None:
    class Worker(stackless.tasklet):
        def __init__(self, name: str, *, size: int) -> None:
            super().__init__(self.work)
            self.name, self.size = name, size

        def work(self, extra: int) -> None:
            results.append((stackless.current, self.name, self.size + extra))

    results: list[tuple[object, str, int]] = []
    worker = Worker("Ada", size=2)
    assert worker(3) is worker
    stackless.run()
    assert results == [(worker, "Ada", 5)]


def test_subclass_of_tasklet_whose_init_does_not_call_the_base_is_unbound() -> None:
    class Silent(stackless.tasklet):
        def __init__(self, *arguments: object) -> None:
            self.arguments = arguments

    silent = Silent(1, 2, 3, 4)
    assert not silent.alive
    assert silent.bind(nothing, ()).paused
    silent.kill()


def test_subclass_of_tasklet_may_override_call_and_repr() -> None:
    class Loud(stackless.tasklet):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return super().__call__(*args, **kwargs)

        def __repr__(self) -> str:
            return "Loud"

    calls: list[tuple[object, ...]] = []
    loud = Loud(nothing)(1)
    assert (repr(loud), calls) == ("Loud", [(1,)])
    loud.kill()


def test_subclass_of_tasklet_with_slots() -> None:
    class Slotted(stackless.tasklet):
        __slots__ = ("name",)

    slotted = Slotted(nothing)
    slotted.name = "Ada"
    assert slotted.name == "Ada"
    with pytest.raises(AttributeError):
        slotted.other = 1  # type: ignore[attr-defined]


def test_tasklet_itself_takes_no_new_attributes() -> None:
    with pytest.raises(AttributeError):
        stackless.tasklet().colour = "red"  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [stackless.tasklet, stackless.channel])
def test_weak_reference_ends_with_the_object(make: type) -> None:
    ends: list[object] = []
    thing = make()
    reference = weakref.ref(thing, ends.append)
    assert reference() is thing
    del thing
    assert reference() is None
    assert ends == [reference]


def test_tasklets_are_equal_to_themselves_only_and_hashable() -> None:
    first, second = stackless.tasklet(), stackless.tasklet()
    assert first != second
    assert len({first, second, first}) == 2


@pytest.mark.parametrize("name", READ_ONLY)
def test_attribute_cannot_be_set_nor_deleted(name: str) -> None:
    task = stackless.tasklet(nothing)
    before = getattr(task, name)
    with pytest.raises(AttributeError):
        setattr(task, name, before)
    with pytest.raises(AttributeError):
        delattr(task, name)


@pytest.mark.parametrize("name", ["alive", "paused", "blocked", "scheduled", "restorable", "atomic", "block_trap",
                                  "ignore_nesting", "is_main", "is_current"])  # fmt: skip
def test_flag_is_a_bool(name: str) -> None:
    assert type(getattr(stackless.tasklet(), name)) is bool
    assert type(getattr(stackless.current, name)) is bool


def test_block_trap_takes_ints_only() -> None:
    task = stackless.tasklet()
    for value, flag in [(True, True), (0, False), (5, True), (-1, True), (False, False)]:
        task.block_trap = value
        assert task.block_trap is flag
    for value in (None, "1", 1.0):
        with pytest.raises(TypeError, match=r"^block_trap must be set to a bool or integer$"):
            task.block_trap = value
    with pytest.raises((TypeError, AttributeError)):
        del task.block_trap
    assert task.block_trap is False


def test_tempval_takes_anything() -> None:
    task, value = stackless.tasklet(), object()
    task.tempval = value
    assert task.tempval is value


def test_numbers_of_a_new_tasklet() -> None:
    task = stackless.tasklet(nothing)
    assert (task.nesting_level, task.recursion_depth, task.restorable) == (0, 0, True)
    assert task.thread_id == stackless.current.thread_id
    assert (task.next, task.prev, task.frame, task._channel) == (None, None, None, None)


def test_recursion_depth_counts_the_frames_of_the_running_tasklet() -> None:
    depths: list[int] = []

    def deeper(levels: int) -> None:
        depths.append(stackless.current.recursion_depth)
        if levels:
            deeper(levels - 1)

    stackless.tasklet(deeper)(3)
    stackless.run()
    assert [depth - depths[0] for depth in depths] == [0, 1, 2, 3]
    assert depths[0] == 1


def test_nesting_level_tells_whether_c_code_is_below() -> None:
    levels: list[tuple[int, bool]] = []

    def look(_: object = None) -> int:
        levels.append((stackless.current.nesting_level, stackless.current.restorable))
        return 0

    def in_c() -> None:
        look()
        sorted([1], key=look)

    stackless.tasklet(in_c)()
    stackless.run()
    assert levels[0] == (0, True)
    assert levels[1][0] >= 1
    assert levels[1][1] is False


def test_cstate_is_there_and_has_the_documented_attributes() -> None:
    task = stackless.tasklet(stackless.schedule_remove)()
    task.run()
    for name in ("size", "nesting_level", "task", "serial", "next", "prev"):
        assert hasattr(task.cstate, name), name
    task.kill()


@pytest.mark.parametrize("name", NO_ARGUMENTS)
def test_methods_without_arguments_refuse_one(name: str) -> None:
    method = getattr(stackless.tasklet(nothing), name)
    with pytest.raises(TypeError, match=rf"^(tasklet\.)?{name}\(\) takes no arguments \(1 given\)$"):
        method(None)
    with pytest.raises(TypeError, match=rf"^(tasklet\.)?{name}\(\) takes no keyword arguments$"):
        method(x=None)


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("bind", (None,) * 4, r"bind() takes at most 3 arguments (4 given)"),
        ("kill", (False, None), r"kill() takes at most 1 argument (2 given)"),
        ("throw", (ValueError, None, None, False, None), r"throw() takes at most 4 arguments (5 given)"),
        ("throw", (), r"throw() missing required argument 'exc' (pos 1)"),
        ("raise_exception", (), r"raise_exception() takes at least 1 argument"),
        ("bind_thread", (1, 2), r"bind_thread() takes at most 1 argument (2 given)"),
        ("set_atomic", (), r"set_atomic() takes exactly one argument (0 given)"),
        ("set_ignore_nesting", (1, 2), r"set_ignore_nesting() takes exactly one argument (2 given)"),
        ("set_atomic", (None,), r"set_atomic needs exactly one bool or integer"),
        ("set_ignore_nesting", ("1",), r"set_ignore_nesting needs exactly one bool or integer"),
        ("context_run", (), r"run() missing 1 required positional argument"),
        ("set_context", (1,), r"set_context() argument must be Context, not int"),
        ("__reduce_ex__", (None,), r"__reduce_ex__ argument should be an integer"),
    ],
)
def test_wrong_arguments_of_methods(name: str, arguments: tuple[object, ...], text: str) -> None:
    # A name may come with that of its class, as the interpreter itself writes it since 3.9.
    with pytest.raises(TypeError, match=rf"^(tasklet\.)?{re.escape(text)}$"):
        getattr(stackless.tasklet(nothing), name)(*arguments)


def test_repr_of_subclasses_names_the_class() -> None:
    class Special(stackless.tasklet):
        pass

    assert "tasklet" in repr(stackless.tasklet())
    assert "Special" in repr(Special())
    assert "channel" in repr(stackless.channel())


# ---- channel ---------------------------------------------------------------------------------------------------------


def test_channel_ignores_arguments() -> None:
    assert isinstance(stackless.channel(1, 2, three=3), stackless.channel)


def test_subclass_of_channel_has_an_init_and_attributes_of_its_own() -> None:
    class Named(stackless.channel):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    named = Named("bong")
    assert named.name == "bong"
    stackless.tasklet(named.send)(1)
    assert named.receive() == 1
    stackless.run()


@pytest.mark.parametrize("name", ["balance", "closing", "closed", "queue"])
def test_channel_attribute_cannot_be_set(name: str) -> None:
    channel = stackless.channel()
    with pytest.raises(AttributeError):
        setattr(channel, name, getattr(channel, name))


def test_preference_is_clamped_and_takes_ints_only() -> None:
    channel = stackless.channel()
    assert channel.preference == -1
    for value, kept in [(0, 0), (1, 1), (-1, -1), (2, 1), (-2, -1), (True, 1), (10**6, 1)]:
        channel.preference = value
        assert channel.preference == kept
    for wrong in (None, "1", 2.5):
        with pytest.raises(TypeError, match=r"^preference must be set to an integer$"):
            channel.preference = wrong


def test_schedule_all_is_0_or_1_and_takes_ints_only() -> None:
    channel = stackless.channel()
    assert channel.schedule_all == 0
    for value, kept in [(1, 1), (False, 0), (-1, 1), (0, 0), (2, 1), (True, 1)]:
        channel.schedule_all = value
        assert channel.schedule_all == kept
    for wrong in (None, "1", 2.5):
        with pytest.raises(TypeError, match=r"^preference must be set to a bool or integer$"):
            channel.schedule_all = wrong


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("send", (), r"send() takes exactly one argument (0 given)"),
        ("send", (1, 2), r"send() takes exactly one argument (2 given)"),
        ("send_sequence", (), r"send_sequence() takes exactly one argument (0 given)"),
        ("receive", (1,), r"receive() takes no arguments (1 given)"),
        ("open", (1,), r"open() takes no arguments (1 given)"),
        ("close", (1,), r"close() takes no arguments (1 given)"),
        ("send_throw", (), r"send_throw expected at least 1 argument, got 0"),
        ("send_throw", (1, 2, 3, 4), r"send_throw expected at most 3 arguments, got 4"),
        ("send_exception", (), r"send_exception() takes at least 1 argument"),
        ("__next__", (None,), r"expected 0 arguments, got 1"),
        ("__iter__", (None,), r"expected 0 arguments, got 1"),
    ],
)
def test_wrong_arguments_of_channel_methods(name: str, arguments: tuple[object, ...], text: str) -> None:
    with pytest.raises(TypeError, match=rf"^(channel\.)?{re.escape(text)}$"):
        getattr(stackless.channel(), name)(*arguments)


@pytest.mark.parametrize("name", ["send", "receive", "send_throw", "send_exception", "send_sequence", "open", "close"])
def test_channel_methods_refuse_keywords(name: str) -> None:
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        getattr(stackless.channel(), name)(value=1)


# ---- bomb and atomic -------------------------------------------------------------------------------------------------


def test_bomb_holds_three_parts() -> None:
    kind, value, traceback = failed()
    bomb = stackless.bomb(kind, value, traceback)
    assert (bomb.type, bomb.value, bomb.traceback) == (kind, value, traceback)
    named = stackless.bomb(type=kind, value=value, traceback=traceback)
    assert (named.type, named.value, named.traceback) == (kind, value, traceback)


def test_bomb_takes_one_tuple() -> None:
    parts = failed()
    bomb = stackless.bomb(parts)
    assert (bomb.type, bomb.value, bomb.traceback) == parts


def test_empty_bomb_has_none_everywhere() -> None:
    bomb = stackless.bomb()
    assert (bomb.type, bomb.value, bomb.traceback) == (None, None, None)


@pytest.mark.parametrize("name", ["type", "value", "traceback"])
def test_parts_of_a_bomb_cannot_be_set(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(stackless.bomb(), name, None)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bomb_pickles(protocol: int) -> None:
    loaded = pickle.loads(pickle.dumps(stackless.bomb(KeyError, ("x",)), protocol))
    assert isinstance(loaded, stackless.bomb)
    assert (loaded.type, loaded.value, loaded.traceback) == (KeyError, ("x",), None)


def test_bomb_can_be_copied() -> None:
    loaded = copy.copy(stackless.bomb(KeyError, ("x",)))
    assert (loaded.type, loaded.value, loaded.traceback) == (KeyError, ("x",), None)


@pytest.mark.parametrize("name", ["bomb", "atomic"])
def test_bomb_and_atomic_cannot_be_subclassed(name: str) -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Sub", (getattr(stackless, name),), {})


def test_atomic_ignores_what_it_is_made_with_and_returns_none() -> None:
    with stackless.atomic() as nothing_at_all:
        assert nothing_at_all is None
