"""Nothing can run any more: the three errors of Stackless, and who gets them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import lissom
import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable

LAST = "Deadlock: the last runnable tasklet cannot be blocked."
RECEIVING = "the main tasklet is receiving without a sender available."
SENDING = "the main tasklet is sending without a receiver available."


def nothing() -> None:
    """Do nothing."""


def refused(call: Callable[[], object], text: str) -> None:
    """Check that a call is a deadlock; the text is all of the error, what else there is to say is in its notes."""
    with pytest.raises(RuntimeError) as caught:
        call()
    assert type(caught.value) is RuntimeError
    assert str(caught.value) == text


@pytest.fixture(params=["send", "receive", "send_throw", "iterate", "send_sequence"])
def operation(request: pytest.FixtureRequest) -> Callable[[stackless.channel], object]:
    """Every operation that can block."""
    return {
        "send": lambda channel: channel.send(1),
        "receive": lambda channel: channel.receive(),
        "send_throw": lambda channel: channel.send_throw(KeyError),
        "iterate": next,
        "send_sequence": lambda channel: channel.send_sequence([1]),
    }[request.param]


# ---- the last runnable tasklet ---------------------------------------------------------------------------------------


def test_main_alone_cannot_block(operation: Callable[[stackless.channel], object]) -> None:
    channel = stackless.channel()
    refused(lambda: operation(channel), LAST)
    assert (channel.balance, channel.queue, stackless.current.blocked, stackless.runcount) == (0, None, False, 1)


def test_main_cannot_block_when_the_others_are_blocked_or_paused() -> None:
    channel = stackless.channel()
    blocked, paused = stackless.tasklet(channel.receive)(), stackless.tasklet(stackless.schedule_remove)()
    stackless.run()
    refused(stackless.channel().receive, LAST)
    assert (blocked.blocked, paused.paused, channel.balance) == (True, True, -1)
    channel.send(None)
    paused.run()


def test_tasklet_gets_the_error_when_main_is_blocked(operation: Callable[[stackless.channel], object]) -> None:
    channel, own = stackless.channel(), stackless.channel()

    def work() -> None:
        refused(lambda: operation(own), LAST)
        assert own.balance == 0
        channel.send("caught")

    stackless.tasklet(work)()
    assert channel.receive() == "caught"
    stackless.run()


def test_error_that_a_tasklet_does_not_catch_goes_to_main() -> None:
    task = stackless.tasklet(stackless.channel().receive)()
    refused(stackless.channel().receive, LAST)
    assert not task.alive


def test_tasklet_cannot_pause_when_main_is_blocked() -> None:
    channel = stackless.channel()

    def work() -> None:
        refused(stackless.schedule_remove, LAST)
        assert stackless.current.scheduled
        channel.send("caught")

    stackless.tasklet(work)()
    assert channel.receive() == "caught"
    stackless.run()


def test_error_goes_to_the_error_handler_as_any_other() -> None:
    seen: list[str] = []
    stackless.set_error_handler(lambda _kind, value, _traceback: seen.append(str(value)))
    stackless.tasklet(stackless.channel().receive)()
    # The tasklet is over then, and with that it is main that cannot go on.
    refused(stackless.channel().receive, RECEIVING)
    stackless.set_error_handler(None)
    assert seen == [LAST]


# ---- the last tasklet ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arguments", "text"), [("receive", (), RECEIVING), ("send", (1,), SENDING)])
def test_end_of_the_last_tasklet_is_an_error_for_a_blocked_main(
    name: str, arguments: tuple[object, ...], text: str
) -> None:
    channel = stackless.channel()
    for _ in range(3):
        stackless.tasklet(nothing)()
    refused(lambda: getattr(channel, name)(*arguments), text)
    assert (channel.balance, stackless.current.blocked, stackless.runcount) == (0, False, 1)


def test_end_by_kill_counts_as_an_end() -> None:
    stackless.tasklet(lambda: stackless.current.kill())()
    refused(stackless.channel().receive, RECEIVING)


def test_exception_of_the_last_tasklet_comes_instead() -> None:
    def fail() -> None:
        raise LookupError("gone")

    stackless.tasklet(fail)()
    with pytest.raises(LookupError, match="gone"):
        stackless.channel().receive()


# ---- no deadlock -----------------------------------------------------------------------------------------------------


def test_run_returns_instead(operation: Callable[[stackless.channel], object]) -> None:
    channel = stackless.channel()
    task = stackless.tasklet(operation)(channel)
    # What an exception is sent with stays in the channel until somebody receives it.
    stackless.run()
    assert task.blocked
    task.kill()


def test_run_in_a_tasklet_returns_instead() -> None:
    channel, steps = stackless.channel(), []

    def runner() -> None:
        blocked = stackless.tasklet(stackless.channel().receive)()
        stackless.run()
        steps.append(blocked.blocked)
        blocked.kill()
        channel.send(None)

    stackless.tasklet(runner)()
    channel.receive()
    assert steps == [True]
    stackless.run()


@pytest.mark.parametrize("name", ["schedule_remove", "switch"])
def test_paused_main_goes_on_instead(name: str) -> None:
    task = stackless.tasklet(stackless.channel().receive)()
    (task.switch if name == "switch" else stackless.schedule_remove)()
    assert task.blocked
    task.kill()


def test_tasklet_that_will_wake_by_itself_is_no_deadlock() -> None:
    # What Stackless does not know: tasklets that wait for time, input or output.
    channel = stackless.channel()

    def sleeper() -> None:
        lissom.sleep(0.001)
        channel.send("woken")

    stackless.tasklet(sleeper)()
    assert channel.receive() == "woken"
    stackless.run()


def test_other_thread_that_can_run_is_no_deadlock() -> None:
    channel = stackless.channel()
    thread = threading.Thread(target=channel.send, args=["from the thread"])
    thread.start()
    assert channel.receive() == "from the thread"
    thread.join()


def test_tasklet_of_another_thread_is_no_deadlock() -> None:
    channel = stackless.channel()

    def thread_function() -> None:
        done = stackless.channel()
        stackless.tasklet(lambda: (channel.send_sequence(range(3)), done.send(None)))()
        done.receive()
        stackless.run()

    thread = threading.Thread(target=thread_function)
    thread.start()
    assert [channel.receive() for _ in range(3)] == [0, 1, 2]
    thread.join()


def test_main_goes_on_after_each_error() -> None:
    channel = stackless.channel()
    for _ in range(3):
        refused(channel.receive, LAST)
        stackless.tasklet(nothing)()
        refused(channel.receive, RECEIVING)
    stackless.tasklet(channel.send)("at last")
    assert channel.receive() == "at last"
    stackless.run()
