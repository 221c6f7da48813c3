"""The callbacks that a program sets for channels and for switches."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def nothing() -> None:
    """Do nothing."""


class ChannelLog(list[tuple[object, ...]]):
    """A channel callback that notes what it gets, and tempval and balance at that time."""

    def __call__(self, channel: stackless.channel, tasklet: stackless.tasklet, sending: int, willblock: int) -> None:
        self.append((tasklet, sending, willblock, tasklet.tempval, channel.balance))


class SwitchLog(list[tuple[object, object]]):
    """A schedule callback that notes who runs after whom."""

    def __call__(self, previous: stackless.tasklet, following: stackless.tasklet) -> None:
        assert stackless.getcurrent() is previous
        self.append((previous, following))


@pytest.fixture
def channel_log() -> Iterator[ChannelLog]:
    log = ChannelLog()
    stackless.set_channel_callback(log)
    yield log
    stackless.set_channel_callback(None)


@pytest.fixture
def switch_log() -> Iterator[SwitchLog]:
    log = SwitchLog()
    stackless.set_schedule_callback(log)
    yield log
    stackless.set_schedule_callback(None)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """Return the list of exceptions that could not be raised."""
    found: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: found.append(args.exc_value))
    return found


# ---- setting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["channel", "schedule"])
def test_setting_returns_the_callback_before(kind: str) -> None:
    get = getattr(stackless, f"get_{kind}_callback")
    change = getattr(stackless, f"set_{kind}_callback")
    first, second = (lambda *_: None), (lambda *_: None)
    assert get() is None
    assert change(first) is None
    assert get() is first
    assert change(second) is first
    assert change(None) is second
    assert get() is change(None) is None


@pytest.mark.parametrize("kind", ["channel", "schedule"])
def test_callback_must_be_callable(kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^{kind} callback must be callable$"):
        getattr(stackless, f"set_{kind}_callback")(5)
    assert getattr(stackless, f"get_{kind}_callback")() is None


# ---- channel callback ------------------------------------------------------------------------------------------------


def test_channel_callback_comes_before_the_exchange_with_the_value_in_tempval(channel_log: ChannelLog) -> None:
    channel = stackless.channel()
    receiver = stackless.tasklet(channel.receive)()
    receiver.run()
    channel.send("value")
    sender = stackless.tasklet(channel.send)("other")
    sender.run()
    channel.receive()
    stackless.run()
    main = stackless.main
    assert channel_log == [
        (receiver, 0, 1, None, 0),
        (main, 1, 0, "value", -1),
        (sender, 1, 1, "other", 0),
        (main, 0, 0, None, 1),
    ]
    assert [type(flag) for entry in channel_log for flag in entry[1:3]] == [int] * 8


def test_channel_callback_sees_each_item_of_a_sequence_and_of_an_iteration(channel_log: ChannelLog) -> None:
    channel = stackless.channel()
    task = stackless.tasklet(list)(channel)
    task.run()
    channel.send_sequence("ab")
    channel.send_exception(StopIteration)
    assert [entry[1] for entry in channel_log] == [0, 1, 0, 1, 0, 1]
    assert isinstance(channel_log[-1][3], stackless.bomb)


def test_channel_callback_comes_also_for_what_is_refused_then(channel_log: ChannelLog) -> None:
    channel = stackless.channel()
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        channel.send(1)
    channel.open()
    stackless.current.block_trap = True
    with pytest.raises(RuntimeError, match="blocked"):
        channel.receive()
    stackless.current.block_trap = False
    assert [entry[1:3] for entry in channel_log] == [(1, 1), (0, 1)]


def test_channel_callback_that_uses_a_channel_is_refused() -> None:
    channel, errors = stackless.channel(), []

    def callback(*_: object) -> None:
        for call in (stackless.channel().receive, lambda: stackless.channel().send(1)):
            with pytest.raises(RuntimeError, match=r"^Recursive channel call due to callbacks!$") as caught:
                call()
            errors.append(caught.value)

    stackless.tasklet(channel.send)("value")
    stackless.tasklet(nothing)()
    stackless.set_channel_callback(callback)
    assert channel.receive() == "value"
    stackless.set_channel_callback(None)
    assert len(errors) == 4
    stackless.run()


def test_channel_callback_can_change_the_value() -> None:
    def callback(_: object, tasklet: stackless.tasklet, sending: int, willblock: int) -> None:
        if sending:
            tasklet.tempval *= 2

    channel = stackless.channel()
    stackless.set_channel_callback(callback)
    stackless.tasklet(channel.send)(21)
    assert channel.receive() == 42
    stackless.set_channel_callback(None)
    stackless.run()


def test_exception_in_a_channel_callback_is_raised_by_the_operation() -> None:
    def callback(*_: object) -> None:
        raise LookupError("no")

    stackless.set_channel_callback(callback)
    channel = stackless.channel()
    with pytest.raises(LookupError, match="no"):
        channel.send(1)
    stackless.set_channel_callback(None)
    assert stackless.runcount == 1


def test_channel_callback_may_remove_itself() -> None:
    calls: list[object] = []

    def callback(*_: object) -> None:
        calls.append(stackless.set_channel_callback(None))

    stackless.set_channel_callback(callback)
    channel = stackless.channel()
    stackless.tasklet(channel.send)(1)
    assert channel.receive() == 1
    stackless.run()
    assert calls == [callback]


# ---- schedule callback -----------------------------------------------------------------------------------------------


def test_schedule_callback_comes_before_each_switch(switch_log: SwitchLog) -> None:
    main = stackless.main
    first, second = [stackless.tasklet(stackless.schedule)() for _ in range(2)]
    assert switch_log == []
    stackless.run()
    assert switch_log == [(main, first), (first, second), (second, first), (first, second), (second, main)]


@pytest.mark.parametrize("name", ["run", "switch", "kill"])
def test_schedule_callback_sees_direct_switches(switch_log: SwitchLog, name: str) -> None:
    task = stackless.tasklet(nothing)()
    getattr(task, name)()
    assert switch_log == [(stackless.main, task), (task, stackless.main)]


def test_schedule_callback_is_not_called_without_a_switch(switch_log: SwitchLog) -> None:
    stackless.schedule()
    stackless.run()
    stackless.current.run()
    stackless.schedule_remove()
    assert switch_log == []


def test_schedule_callback_sees_switches_of_channels(switch_log: SwitchLog) -> None:
    channel, main = stackless.channel(), stackless.main
    receiver = stackless.tasklet(channel.receive)()
    receiver.run()
    switch_log.clear()
    channel.send(1)
    assert switch_log == [(main, receiver), (receiver, main)]
    switch_log.clear()
    sender = stackless.tasklet(channel.send)(1)
    assert channel.receive() == 1
    assert switch_log == [(main, sender), (sender, main)]
    stackless.run()


def test_schedule_callback_sees_interrupts(switch_log: SwitchLog) -> None:
    def loop() -> None:
        for _ in range(10**6):
            pass

    task = stackless.tasklet(loop)()
    assert stackless.run(1000) is task
    assert switch_log == [(stackless.main, task), (task, stackless.main)]
    task.kill()


def test_schedule_callback_sees_why_the_previous_one_stops() -> None:
    states: list[tuple[bool, bool, bool, bool]] = []

    def callback(previous: stackless.tasklet, _: stackless.tasklet) -> None:
        if not previous.is_main:
            states.append((previous.alive, previous.blocked, previous.paused, previous.scheduled))

    channel = stackless.channel()

    def work() -> None:
        stackless.schedule()
        stackless.schedule_remove()
        channel.receive()

    task = stackless.tasklet(work)()
    stackless.set_schedule_callback(callback)
    stackless.schedule()
    stackless.run()
    task.run()
    channel.send(None)
    stackless.set_schedule_callback(None)
    assert states == [
        (True, False, False, True),
        (True, False, True, False),
        (True, True, False, True),
        (False, False, False, False),
    ]


def test_schedule_callback_runs_in_the_context_of_the_previous_one() -> None:
    seen: list[tuple[bool, object, bool]] = []

    def callback(previous: stackless.tasklet, _: stackless.tasklet) -> None:
        frame, names = sys._getframe(), []
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        seen.append((previous.is_main, sys.exception(), "fail_and_schedule" in names))

    failure = LookupError("of the tasklet")

    def fail_and_schedule() -> None:
        try:
            raise failure
        except LookupError:
            stackless.schedule()

    stackless.tasklet(fail_and_schedule)()
    stackless.set_schedule_callback(callback)
    mine = KeyError("of main")
    try:
        raise mine
    except KeyError:
        stackless.schedule()
    stackless.set_schedule_callback(None)
    assert seen == [(True, mine, False), (False, failure, True)]
    stackless.run()


def test_exception_in_a_schedule_callback_is_reported_and_not_raised(unraisable: list[BaseException | None]) -> None:
    def callback(_: object, following: stackless.tasklet) -> None:
        if following.is_main:
            raise LookupError("no")

    steps: list[str] = []
    stackless.set_schedule_callback(callback)
    stackless.tasklet(steps.append)("ran")
    stackless.run()
    stackless.set_schedule_callback(None)
    assert steps == ["ran"]
    assert [str(error) for error in unraisable] == ["no"]


def test_switch_in_a_schedule_callback_is_refused() -> None:
    # Stackless ends the process then.
    errors: list[BaseException] = []
    task = stackless.tasklet(nothing)()

    def callback(*_: object) -> None:
        for call in (
            stackless.schedule,
            stackless.schedule_remove,
            stackless.run,
            task.run,
            stackless.channel().receive,
        ):
            with pytest.raises(RuntimeError) as caught:
                call()
            errors.append(caught.value)
        stackless.set_schedule_callback(None)

    stackless.set_schedule_callback(callback)
    stackless.schedule()
    assert len(errors) == 5
    assert not task.alive


def test_schedule_callback_may_make_and_queue_tasklets() -> None:
    steps: list[str] = []

    def callback(*_: object) -> None:
        stackless.set_schedule_callback(None)
        stackless.tasklet(steps.append)("made in the callback")

    stackless.tasklet(steps.append)("first")
    stackless.set_schedule_callback(callback)
    stackless.run()
    assert steps == ["first", "made in the callback"]


def test_schedule_callback_is_for_all_threads(switch_log: SwitchLog) -> None:
    tasks: list[stackless.tasklet] = []

    def thread_function() -> None:
        tasks.append(stackless.getmain())
        tasks.append(stackless.tasklet(nothing)())
        stackless.run()

    thread = threading.Thread(target=thread_function)
    thread.start()
    thread.join()
    assert switch_log == [(tasks[0], tasks[1]), (tasks[1], tasks[0])]


def test_both_callbacks_keep_no_references(switch_log: SwitchLog, no_new_references: Callable[..., object]) -> None:
    value, channel = object(), stackless.channel()
    stackless.set_channel_callback(lambda *_: None)
    with no_new_references(value, channel):  # type: ignore[attr-defined]
        stackless.tasklet(channel.send)(value)
        channel.receive()
        stackless.run()
        switch_log.clear()
    stackless.set_channel_callback(None)
