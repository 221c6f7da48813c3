"""Channels: who runs after an exchange, closing, iteration, exceptions over a channel, the values that change hands."""

from __future__ import annotations

import gc
import sys
import traceback
import weakref

import pytest
import stackless
from lissom import TaskletExit


def blocked(func: object, *args: object) -> stackless.tasklet:
    """Return a tasklet that runs `func` and is blocked."""
    task = stackless.tasklet(func)(*args)  # type: ignore[arg-type]
    task.run()
    assert task.blocked
    return task


def channel_with(preference: int = -1, schedule_all: int = 0) -> stackless.channel:
    """Return a channel of this behaviour."""
    channel = stackless.channel()
    channel.preference, channel.schedule_all = preference, schedule_all
    return channel


# ---- order -----------------------------------------------------------------------------------------------------------

# Two sends against two receives; r0: the receiver has item 0, w0: the writer is back from its first send.
ORDERS = [
    (-1, 0, "r0 w0 r1 w1", "r0 w0 r1 w1"),
    (0, 0, "w0 r0 r1 w1", "r0 w0 w1 r1"),
    (1, 0, "w0 r0 w1 r1", "w0 r0 w1 r1"),
    (-1, 1, "r0 w0 r1 w1", "w0 r0 w1 r1"),
    (0, 1, "r0 w0 r1 w1", "w0 r0 w1 r1"),
    (1, 1, "r0 w0 r1 w1", "w0 r0 w1 r1"),
]


@pytest.mark.parametrize("receiver_first", [True, False])
@pytest.mark.parametrize(("preference", "schedule_all", "with_receiver_first", "with_sender_first"), ORDERS)
def test_order_of_two_exchanges(
    preference: int, schedule_all: int, with_receiver_first: str, with_sender_first: str, receiver_first: bool
) -> None:
    channel, steps = channel_with(preference, schedule_all), []

    def send() -> None:
        for number in range(2):
            channel.send(number)
            steps.append(f"w{number}")

    def receive() -> None:
        for _ in range(2):
            steps.append(f"r{channel.receive()}")

    for func in [receive, send] if receiver_first else [send, receive]:
        stackless.tasklet(func)()
    stackless.run()
    assert " ".join(steps) == (with_receiver_first if receiver_first else with_sender_first)


# What a third tasklet x, queued, sees: a partner waits, main acts, x runs where the rule puts it.
@pytest.mark.parametrize(
    ("direction", "preference", "schedule_all", "expected"),
    [
        ("send", -1, 0, "partner x main"),
        ("send", 0, 0, "main x partner"),
        ("send", 1, 0, "main x partner"),
        ("send", -1, 1, "x partner main"),
        ("receive", -1, 0, "main x partner"),
        ("receive", 0, 0, "main x partner"),
        ("receive", 1, 0, "partner x main"),
        ("receive", 1, 1, "x partner main"),
    ],
)
def test_place_of_the_partner_in_the_queue(direction: str, preference: int, schedule_all: int, expected: str) -> None:
    channel, steps = channel_with(preference, schedule_all), []

    def wait() -> None:
        if direction == "send":
            channel.receive()
        else:
            channel.send(None)
        steps.append("partner")

    blocked(wait)
    stackless.tasklet(steps.append)("x")
    if direction == "send":
        channel.send(None)
    else:
        channel.receive()
    steps.append("main")
    stackless.run()
    assert " ".join(steps) == expected


def test_waiters_are_served_first_come_first_served() -> None:
    channel, got = channel_with(), []
    tasks = [blocked(lambda name: got.append((name, channel.receive())), name) for name in "abc"]
    assert (channel.queue, channel.balance) == (tasks[0], -3)
    channel.send_sequence([1, 2, 3])
    stackless.run()
    assert got == [("a", 1), ("b", 2), ("c", 3)]
    for number in range(3):
        blocked(channel.send, number)
    assert (channel.balance, [channel.receive() for _ in range(3)]) == (3, [0, 1, 2])
    assert channel.queue is None
    stackless.run()


def test_killing_a_waiter_corrects_the_balance() -> None:
    channel = stackless.channel()
    for func, arguments, sign in [(channel.send, (1,), 1), (channel.receive, (), -1)]:
        tasks = [blocked(func, *arguments) for _ in range(3)]
        assert channel.balance == 3 * sign
        tasks[1].kill()
        assert (channel.balance, channel.queue, tasks[0].next) == (2 * sign, tasks[0], tasks[2])
        tasks[0].kill()
        assert (channel.balance, channel.queue) == (sign, tasks[2])
        tasks[2].kill()
        assert (channel.balance, channel.queue) == (0, None)


# ---- values ----------------------------------------------------------------------------------------------------------


def test_send_returns_none_and_receive_the_value() -> None:
    channel, results, value = stackless.channel(), [], object()
    blocked(lambda: results.append(channel.receive()))
    assert channel.send(value) is None
    assert results == [value]
    blocked(lambda: results.append(channel.send(value)))
    assert channel.receive() is value
    stackless.run()
    assert results == [value, None]


def test_tempval_of_a_blocked_sender_is_the_value_and_can_be_changed() -> None:
    channel = stackless.channel()
    task = blocked(channel.send, "first")
    assert task.tempval == "first"
    task.tempval = "second"
    assert channel.receive() == "second"
    assert task.tempval is None
    stackless.run()


def test_tempval_of_a_blocked_receiver_goes_to_the_sender() -> None:
    channel, got = stackless.channel(), []
    task = blocked(lambda: got.append(channel.receive()))
    assert task.tempval is None
    task.tempval = "answer"
    assert channel.send("question") == "answer"
    assert got == ["question"]


def test_value_waits_in_tempval_of_a_receiver_that_has_not_run_yet() -> None:
    channel, got = channel_with(preference=1), []
    task = blocked(lambda: got.append(channel.receive()))
    channel.send("value")
    assert (task.blocked, task.scheduled, task.tempval, got) == (False, True, "value", [])
    stackless.run()
    assert got == ["value"]


def test_tempval_of_the_caller_is_none_after_an_exchange() -> None:
    channel = stackless.channel()
    blocked(channel.receive)
    stackless.current.tempval = "old"
    channel.send(1)
    assert stackless.current.tempval is None


def test_channel_drops_values_that_were_received() -> None:
    class Thing:
        pass

    channel, thing = stackless.channel(), Thing()
    reference = weakref.ref(thing)
    stackless.tasklet(channel.send)(thing)
    del thing
    channel.receive()
    stackless.run()
    assert reference() is None


# ---- close and open --------------------------------------------------------------------------------------------------


def test_close_and_open_set_the_flags() -> None:
    channel = stackless.channel()
    assert (channel.closing, channel.closed) == (False, False)
    task = blocked(channel.send, None)
    assert channel.close() is None
    assert (channel.closing, channel.closed) == (True, False)
    task.kill()
    assert (channel.closing, channel.closed) == (True, True)
    assert channel.open() is None
    assert (channel.closing, channel.closed) == (False, False)


@pytest.mark.parametrize(
    "arguments", [("send", 1), ("receive",), ("send_throw", KeyError), ("send_exception", KeyError)]
)
def test_blocking_on_a_closing_channel_raises(arguments: tuple[object, ...]) -> None:
    channel = stackless.channel()
    channel.close()
    name, *rest = arguments
    with pytest.raises(ValueError, match=r"^Send/receive operation on a closed channel$"):
        getattr(channel, str(name))(*rest)
    assert (channel.balance, stackless.runcount, stackless.current.tempval) == (0, 1, None)


def test_exchange_with_a_waiter_still_works_on_a_closing_channel() -> None:
    channel, got = stackless.channel(), []
    blocked(lambda: got.append(channel.receive()))
    channel.close()
    channel.send(1)
    assert (got, channel.closed) == ([1], True)
    channel.open()
    blocked(channel.send, 2)
    channel.close()
    assert channel.receive() == 2
    stackless.run()


# ---- iteration and sequences -----------------------------------------------------------------------------------------


def test_iteration_ends_when_the_channel_is_closed_and_empty() -> None:
    channel = stackless.channel()
    for number in range(3):
        blocked(channel.send, number)
    channel.close()
    assert iter(channel) is channel
    assert list(channel) == [0, 1, 2]
    with pytest.raises(StopIteration):
        next(channel)
    stackless.run()


def test_iteration_ends_when_stop_iteration_is_sent() -> None:
    channel, got = stackless.channel(), []
    task = blocked(lambda: got.extend(channel))
    channel.send_sequence("abc")
    channel.send_exception(StopIteration)
    assert (got, task.alive) == (["a", "b", "c"], False)


def test_close_does_not_wake_a_waiting_receiver() -> None:
    channel, got = stackless.channel(), []
    task = blocked(lambda: got.extend(channel))
    channel.close()
    stackless.run()
    assert (task.blocked, channel.closed) == (True, False)
    channel.send("pump")
    assert (got, task.alive, channel.closed) == (["pump"], False, True)


def test_send_sequence_returns_how_many_were_sent() -> None:
    channel, got, counts = stackless.channel(), [], []
    task = blocked(lambda: got.extend(channel))
    assert channel.send_sequence(range(42)) == 42
    assert channel.send_sequence(()) == 0
    assert channel.send_sequence(letter for letter in "ab") == 2
    assert got == [*range(42), "a", "b"]
    task.kill()
    stackless.tasklet(lambda: counts.append(channel.send_sequence("xyz")))()
    assert [channel.receive() for _ in range(3)] == ["x", "y", "z"]
    stackless.run()
    assert counts == [3]


def test_send_sequence_raises_what_the_iterator_raises() -> None:
    channel, got = stackless.channel(), []

    def items() -> object:
        yield 1
        raise LookupError("no more")

    task = blocked(lambda: got.extend(channel))
    with pytest.raises(LookupError, match="no more"):
        channel.send_sequence(items())
    with pytest.raises(TypeError, match="not iterable"):
        channel.send_sequence(5)
    assert (got, task.blocked) == ([1], True)
    task.kill()


# ---- exceptions ------------------------------------------------------------------------------------------------------


def raising_function() -> None:
    raise ZeroDivisionError(1, 2)


def test_send_exception_raises_in_the_receiver() -> None:
    channel = stackless.channel()
    for arguments in [(), ("one",), (1, 2, 3)]:
        task = blocked(channel.send_exception, KeyError, *arguments)
        assert isinstance(task.tempval, stackless.bomb)
        with pytest.raises(KeyError) as caught:
            channel.receive()
        assert caught.value.args == arguments
        stackless.run()


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, TaskletExit, GeneratorExit])
def test_send_exception_to_a_waiting_receiver_returns_none(kind: type[BaseException]) -> None:
    channel, errors = stackless.channel(), []

    def receive() -> None:
        with pytest.raises(kind) as caught:
            channel.receive()
        errors.append(caught.value.args)

    blocked(receive)
    assert channel.send_exception(kind, "text") is None
    assert errors == [("text",)]


@pytest.mark.parametrize("wrong", [None, 5, KeyError("instance"), int])
def test_send_exception_needs_an_exception_class(wrong: object) -> None:
    text = r"^channel\.send_exception needs Exception or string subclass as first parameter$"
    with pytest.raises(TypeError, match=text):
        stackless.channel().send_exception(wrong)


@pytest.mark.parametrize(
    ("arguments", "kind", "args"),
    [
        ((KeyError,), KeyError, ()),
        ((KeyError, None), KeyError, ()),
        ((KeyError, "a"), KeyError, ("a",)),
        ((KeyError, ("a", "b")), KeyError, ("a", "b")),
        ((KeyError("a", "b"),), KeyError, ("a", "b")),
        ((KeyError("a"), None, None), KeyError, ("a",)),
        ((LookupError, KeyError("a")), KeyError, ("a",)),
    ],
)
def test_send_throw_takes_the_forms_of_raise(
    arguments: tuple[object, ...], kind: type[BaseException], args: tuple[object, ...]
) -> None:
    channel = stackless.channel()
    blocked(channel.send_throw, *arguments)
    with pytest.raises(LookupError) as caught:
        channel.receive()
    assert (type(caught.value), caught.value.args) == (kind, args)
    stackless.run()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((KeyError, None, 5), "third argument must be a traceback object"),
        ((KeyError("a"), 5), "instance exception may not have a separate value"),
        ((5,), "exceptions must be classes, or instances, not int"),
        ((int,), "exceptions must be classes, or instances, not type"),
        (("text",), "exceptions must be classes, or instances, not str"),
    ],
)
def test_send_throw_refuses_what_cannot_be_raised(arguments: tuple[object, ...], text: str) -> None:
    channel = stackless.channel()
    task = blocked(channel.receive)
    with pytest.raises(TypeError, match=f"^{text}$"):
        channel.send_throw(*arguments)
    assert task.blocked
    task.kill()


def test_send_throw_keeps_the_traceback() -> None:
    channel = stackless.channel()

    def send() -> None:
        try:
            raising_function()
        except ZeroDivisionError:
            channel.send_throw(*sys.exc_info())

    blocked(send)
    with pytest.raises(ZeroDivisionError) as caught:
        channel.receive()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "raising_function"
    assert caught.value.args == (1, 2)
    stackless.run()


def test_bomb_that_is_sent_explodes_in_the_receiver() -> None:
    channel = stackless.channel()
    blocked(channel.send, stackless.bomb(KeyError, ("boom",)))
    with pytest.raises(KeyError, match="boom"):
        channel.receive()
    stackless.run()


# ---- the end of a channel --------------------------------------------------------------------------------------------


def test_tasklet_on_a_channel_that_only_it_refers_to_is_no_error_and_is_collected() -> None:
    reference = weakref.ref(stackless.tasklet(lambda: stackless.channel().receive())())
    stackless.tasklet(lambda: None)()
    stackless.run()
    gc.collect()
    assert reference() is None
