"""Pickling: tasklets that have not started, channels; a clear error for tasklets that have a machine stack."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Script

RESULTS: list[object] = []


def note(*args: object, **kwargs: object) -> None:
    """Note the arguments."""
    RESULTS.append((args, kwargs))


def receive(channel: stackless.channel) -> None:
    """Note what comes over a channel."""
    RESULTS.append(channel.receive())


def send(channel: stackless.channel, value: object) -> None:
    """Send a value."""
    channel.send(value)


def fail() -> None:
    """Raise an exception."""
    raise LookupError("gone")


class Custom(stackless.tasklet):
    """A subclass."""

    __slots__ = ("name",)


class CustomChannel(stackless.channel):
    """A subclass."""


@pytest.fixture(autouse=True)
def results() -> list[object]:
    RESULTS.clear()
    return RESULTS


@pytest.fixture(params=[*range(pickle.HIGHEST_PROTOCOL + 1), "copy", "deepcopy", "reduce"])
def clone(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Every way to get an object like another."""

    def by_hand(thing: Any) -> Any:
        make, arguments, state = thing.__reduce__()
        made = make(*arguments)
        made.__setstate__(state)
        return made

    ways: dict[object, Callable[[Any], Any]] = {
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "reduce": by_hand,
    }
    return ways.get(request.param) or (lambda thing: pickle.loads(pickle.dumps(thing, request.param)))


# ---- tasklets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queued", [False, True])
def test_tasklet_that_has_not_started_comes_back_paused(clone: Callable[[Any], Any], queued: bool) -> None:
    task = stackless.tasklet(note, (1,), {"key": 2})
    if queued:
        task.insert()
    loaded = clone(task)
    assert type(loaded) is stackless.tasklet
    assert loaded is not task
    assert (loaded.alive, loaded.paused, loaded.scheduled, loaded.tempval) == (True, True, False, None)
    assert task.scheduled is queued
    task.remove()
    loaded.run()
    assert RESULTS == [((1,), {"key": 2})]
    task.run()
    assert RESULTS == [((1,), {"key": 2})] * 2


def test_bound_tasklet_comes_back_bound(clone: Callable[[Any], Any]) -> None:
    loaded = clone(stackless.tasklet(note))
    assert (loaded.alive, loaded.tempval) == (False, note)
    loaded(5)
    stackless.run()
    assert RESULTS == [((5,), {})]


@pytest.mark.parametrize("state", ["unbound", "ended", "killed"])
def test_dead_tasklet_comes_back_dead(clone: Callable[[Any], Any], state: str) -> None:
    task = stackless.tasklet() if state == "unbound" else stackless.tasklet(note, ())
    if state == "ended":
        task.run()
    task.kill()
    loaded = clone(task)
    assert (loaded.alive, loaded.tempval) == (False, None)
    with pytest.raises(RuntimeError, match="not bound"):
        loaded.setup()


def test_subclass_comes_back_as_such(clone: Callable[[Any], Any]) -> None:
    loaded = clone(Custom(note)(1))
    assert type(loaded) is Custom
    loaded.run()
    stackless.run()
    assert RESULTS == [((1,), {})] * 2


def test_flags_come_back(clone: Callable[[Any], Any]) -> None:
    for atomic, ignore_nesting, block_trap in [(True, False, False), (False, True, False), (False, False, True)]:
        task = stackless.tasklet(note, ())
        task.set_atomic(atomic)
        task.set_ignore_nesting(ignore_nesting)
        task.block_trap = block_trap
        loaded = clone(task)
        assert (loaded.atomic, loaded.ignore_nesting, loaded.block_trap) == (atomic, ignore_nesting, block_trap)


def test_pending_exception_comes_back(clone: Callable[[Any], Any]) -> None:
    task = stackless.tasklet(note, ())
    task.tempval = stackless.bomb(KeyError, ("boom",))
    loaded = clone(task)
    with pytest.raises(KeyError, match="boom"):
        loaded.run()
    task.kill()
    assert RESULTS == []


def test_copy_that_fails_raises_as_the_original_would(clone: Callable[[Any], Any]) -> None:
    loaded = clone(stackless.tasklet(fail, ()))
    with pytest.raises(LookupError, match="gone"):
        loaded.run()


def test_objects_stay_shared_within_a_pickle() -> None:
    shared: list[int] = []
    first, second, loaded = pickle.loads(
        pickle.dumps([stackless.tasklet(note, (shared,)), stackless.tasklet(note, (shared,)), shared])
    )
    first.run()
    second.run()
    assert RESULTS[0][0][0] is RESULTS[1][0][0] is loaded  # type: ignore[index]


def test_tasklet_that_has_itself_as_an_argument() -> None:
    task = stackless.tasklet(note)
    task.bind(None, (task,))
    loaded = pickle.loads(pickle.dumps(task))
    loaded.run()
    assert RESULTS[0][0][0] is loaded  # type: ignore[index]
    task.kill()


@pytest.mark.parametrize("method", ["__reduce__", "__reduce_ex__", "pickle"])
@pytest.mark.parametrize("where", ["main", "a tasklet"])
def test_current_tasklet_cannot_be_pickled(where: str, method: str) -> None:
    def attempt() -> None:
        current = stackless.current
        calls: dict[str, Callable[[], object]] = {
            "__reduce__": current.__reduce__,
            "__reduce_ex__": lambda: current.__reduce_ex__(2),
            "pickle": lambda: pickle.dumps(current),
        }
        with pytest.raises(RuntimeError, match=r"^You cannot __reduce__ the tasklet which is current\.$"):
            calls[method]()
        RESULTS.append("refused")

    if where == "main":
        attempt()
    else:
        stackless.tasklet(attempt)()
        stackless.run()
    assert RESULTS == ["refused"]


@pytest.mark.parametrize("wait", ["schedule", "schedule_remove", "run", "receive", "send"])
def test_started_tasklet_is_refused_and_goes_on(wait: str) -> None:
    channel = stackless.channel()
    waits: dict[str, Callable[[], object]] = {
        "receive": channel.receive,
        "send": lambda: channel.send(1),
    }
    task = stackless.tasklet(lambda: note(waits.get(wait, getattr(stackless, wait, None))()))()
    stackless.schedule()
    before = task.blocked, task.paused, task.scheduled, channel.balance
    for call in (task.__reduce__, lambda: pickle.dumps(task), lambda: copy.copy(task)):
        with pytest.raises(RuntimeError, match="has started"):
            call()
    assert (task.blocked, task.paused, task.scheduled, channel.balance) == before
    if wait == "receive":
        channel.send(1)
    elif wait == "send":
        channel.receive()
        stackless.run()
    else:
        task.run()
    assert len(RESULTS) == 1


def test_main_tasklet_that_waits_cannot_be_pickled() -> None:
    errors: list[BaseException] = []

    def attempt() -> None:
        with pytest.raises(RuntimeError) as caught:
            pickle.dumps(stackless.main)
        errors.append(caught.value)

    stackless.tasklet(attempt)()
    stackless.run()
    assert len(errors) == 1


def test_state_cannot_be_set_on_an_alive_tasklet() -> None:
    state = stackless.tasklet(note, ()).__reduce__()[2]
    for task in (stackless.tasklet(note, ()), stackless.tasklet(note)(), stackless.current):
        with pytest.raises(RuntimeError, match=r"^tasklet is alive$"):
            task.__setstate__(state)
    stackless.run()


@pytest.mark.parametrize("state", [None, (), (1, 2, 3), [], ("a",) * 8])
def test_wrong_state_is_refused(state: object) -> None:
    task = stackless.tasklet()
    with pytest.raises(TypeError):
        task.__setstate__(state)
    assert not task.alive


def test_tasklet_goes_from_one_process_to_another(script: Script) -> None:
    made = script(
        """
        import pickle, stackless, operator
        channel = stackless.channel()
        tasks = [stackless.tasklet(channel.__class__.send, (channel, 42)), stackless.tasklet(print, ("printed",))]
        print(pickle.dumps([channel, *tasks]).hex())
        """
    ).stdout
    done = script(
        """
        import pickle, sys
        channel, sender, printer = pickle.loads(bytes.fromhex(sys.argv[1]))
        printer.run()
        sender.insert()
        print(channel.receive())
        """,
        made.strip(),
    )
    assert done.stdout == "printed\n42\n"


# ---- channels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preference", [-1, 0, 1])
@pytest.mark.parametrize(("schedule_all", "closing"), [(0, False), (1, False), (0, True)])
def test_channel_comes_back_with_its_settings(
    clone: Callable[[Any], Any], preference: int, schedule_all: int, closing: bool
) -> None:
    channel = stackless.channel()
    channel.preference, channel.schedule_all = preference, schedule_all
    if closing:
        channel.close()
    loaded = clone(channel)
    assert loaded is not channel
    assert (loaded.preference, loaded.schedule_all, loaded.closing) == (preference, schedule_all, closing)
    assert (loaded.balance, loaded.queue) == (0, None)


def test_subclass_of_channel_comes_back_as_such(clone: Callable[[Any], Any]) -> None:
    assert type(clone(CustomChannel())) is CustomChannel


def test_tasklets_that_share_a_channel_share_it_afterwards() -> None:
    channel = stackless.channel()
    tasks = [stackless.tasklet(receive, (channel,)), stackless.tasklet(send, (channel, "value"))]
    loaded = pickle.loads(pickle.dumps(tasks))
    for task in loaded:
        task.insert()
    stackless.run()
    assert (RESULTS, channel.balance) == (["value"], 0)


@pytest.mark.parametrize("name", ["send", "receive"])
def test_channel_with_started_waiters_is_refused(name: str) -> None:
    channel = stackless.channel()
    task = stackless.tasklet(getattr(channel, name))(*[1] * (name == "send"))
    task.run()
    with pytest.raises(RuntimeError, match="has started"):
        pickle.dumps(channel)
    assert (task.blocked, channel.queue) == (True, task)
    task.kill()


def test_reduce_of_a_channel_tells_balance_and_waiters() -> None:
    channel = stackless.channel()
    tasks = [stackless.tasklet(channel.send)(number) for number in range(2)]
    stackless.run()
    kind, arguments, (balance, flags, waiters) = channel.__reduce__()
    assert (kind, arguments, balance, waiters) == (stackless.channel, (), 2, tasks)
    assert isinstance(flags, int)
    for task in tasks:
        task.kill()


@pytest.mark.parametrize("state", [None, (), (1, 2), (0, 0, 5)])
def test_wrong_state_of_a_channel_is_refused(state: object) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        stackless.channel().__setstate__(state)
