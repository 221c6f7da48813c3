"""`run()` without a time limit: when it returns, who gets errors, and calls inside each other.

Time limits are in test_watchdog.py.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing() -> None:
    """Do nothing."""


def watchdogs() -> list[object]:
    """Return whom an interrupt wakes, or None, and then the callers of run(), the innermost last."""
    return list(stackless.get_thread_info(-1, 1 << 31)[3] or [None])


class Steps(list[str]):
    """What happened, in order."""

    def schedules_then(self, name: str) -> Callable[[], None]:
        """Return a function that lets the others run once, and then notes the name."""

        def work() -> None:
            stackless.schedule()
            self.append(name)

        return work

    def runs_then(self, name: str) -> Callable[[], None]:
        """Return a function that runs the others, and then notes the name."""

        def work() -> None:
            stackless.run()
            self.append(name)

        return work


@pytest.fixture
def steps() -> Steps:
    return Steps()


# ---- one run() -------------------------------------------------------------------------------------------------------


def test_run_without_others_returns_none_at_once() -> None:
    assert stackless.run() is None
    assert stackless.run(timeout=1000) is None
    assert stackless.current.scheduled


def test_run_returns_when_all_have_ended(steps: Steps) -> None:
    for name in "abc":
        stackless.tasklet(steps.schedules_then(name))()
    assert stackless.run() is None
    assert (steps, stackless.runcount) == (["a", "b", "c"], 1)


def test_caller_of_run_is_paused_and_on_the_list_of_watchdogs() -> None:
    seen: list[object] = []

    def look() -> None:
        main = stackless.main
        seen.extend((main.paused, main.scheduled, main.blocked, stackless.runcount, watchdogs()))

    stackless.tasklet(look)()
    stackless.run()
    assert seen == [True, False, False, 1, [None, stackless.main]]
    assert watchdogs() == [None]


@pytest.mark.parametrize("wait", ["receive", "schedule_remove"])
def test_run_returns_when_the_last_tasklet_blocks_or_pauses(wait: str) -> None:
    function = stackless.channel().receive if wait == "receive" else stackless.schedule_remove
    task = stackless.tasklet(function)()
    assert stackless.run() is None
    assert task.alive
    assert (task.blocked, task.paused) == (wait == "receive", wait != "receive")
    task.kill()


def test_run_leaves_tempval_of_the_caller_alone_and_returns_none() -> None:
    stackless.tasklet(lambda: setattr(stackless.main, "tempval", 5))()
    assert stackless.run() is None


def test_error_of_a_tasklet_leaves_run_and_the_others_stay_queued(steps: Steps) -> None:
    def fail() -> None:
        raise LookupError("gone")

    stackless.tasklet(steps.schedules_then("a"))()
    failing = stackless.tasklet(fail)()
    stackless.tasklet(steps.schedules_then("b"))()
    with pytest.raises(LookupError, match="gone"):
        stackless.run()
    assert (steps, failing.alive, stackless.runcount, watchdogs()) == ([], False, 3, [None])
    stackless.run()
    assert sorted(steps) == ["a", "b"]


def test_inserted_caller_goes_on_while_others_still_run(steps: Steps) -> None:
    stackless.tasklet(lambda: stackless.main.insert() and steps.append("a"))()
    task = stackless.tasklet(steps.schedules_then("b"))()
    assert stackless.run() is None
    assert (steps, task.scheduled, watchdogs()) == (["a"], True, [None])
    stackless.run()
    assert steps == ["a", "b"]


# ---- run() in a tasklet ----------------------------------------------------------------------------------------------


def test_run_in_a_tasklet_waits_as_long_as_main_can_run(steps: Steps) -> None:
    stackless.tasklet(steps.schedules_then("worker"))()
    runner = stackless.tasklet(steps.runs_then("runner"))()
    for _ in range(5):
        stackless.schedule()
    assert (steps, runner.paused, watchdogs()) == (["worker"], True, [None, runner])
    # A second run() above it empties the queue, and that wakes the innermost, the main tasklet.
    stackless.run()
    assert (steps, runner.paused) == (["worker"], True)
    runner.run()
    assert (steps, runner.alive, watchdogs()) == (["worker", "runner"], False, [None])


def test_run_in_a_tasklet_returns_when_main_is_blocked_and_nobody_can_run(steps: Steps) -> None:
    channel = stackless.channel()

    def runner() -> None:
        stackless.run()
        steps.append("runner")
        channel.send("done")

    stackless.tasklet(steps.schedules_then("worker"))()
    stackless.tasklet(runner)()
    assert channel.receive() == "done"
    assert steps == ["worker", "runner"]
    stackless.run()


def test_inner_run_returns_first(steps: Steps) -> None:
    def runner() -> None:
        stackless.run()
        steps.append("inner")
        assert stackless.main.paused
        assert watchdogs() == [None, stackless.main]

    stackless.tasklet(steps.schedules_then("worker"))()
    stackless.tasklet(runner)()
    stackless.run()
    steps.append("outer")
    assert steps == ["worker", "inner", "outer"]


def test_inner_run_gets_the_error(steps: Steps) -> None:
    def fail() -> None:
        raise LookupError("gone")

    def runner() -> None:
        stackless.tasklet(fail)()
        with pytest.raises(LookupError, match="gone"):
            stackless.run()
        steps.append("caught")

    stackless.tasklet(runner)()
    stackless.run()
    assert steps == ["caught"]


def test_three_levels_return_inside_out(steps: Steps) -> None:
    stackless.tasklet(steps.runs_then("first"))()
    stackless.tasklet(steps.runs_then("second"))()
    stackless.tasklet(steps.schedules_then("worker"))()
    stackless.run()
    assert steps == ["worker", "second", "first"]


@pytest.mark.parametrize("wake", ["run", "insert"])
def test_outer_run_that_is_woken_puts_the_deeper_ones_into_the_queue(steps: Steps, wake: str) -> None:
    def wakes_main() -> None:
        getattr(stackless.main, wake)()
        steps.append("waker")

    def runner() -> None:
        stackless.tasklet(wakes_main)()
        stackless.run()
        steps.append("runner")

    stackless.tasklet(steps.schedules_then("worker"))()
    inner = stackless.tasklet(runner)()
    stackless.run()
    before = ["worker"] if wake == "run" else ["worker", "waker"]
    assert (steps, inner.scheduled, watchdogs()) == (before, True, [None])
    stackless.run()
    assert steps == ["worker", "waker", "runner"]


def test_deeper_runner_that_is_queued_already_is_not_queued_twice(steps: Steps) -> None:
    def worker() -> None:
        assert watchdogs() == [None, stackless.main, runner]
        runner.insert()
        stackless.main.run()
        steps.append("worker")

    def run_worker() -> None:
        stackless.tasklet(worker)()
        stackless.run()
        steps.append("runner")

    runner = stackless.tasklet(run_worker)()
    stackless.run()
    assert (steps, stackless.runcount, watchdogs()) == ([], 3, [None])
    stackless.run()
    assert sorted(steps) == ["runner", "worker"]


def test_killed_runner_leaves_the_list() -> None:
    runner = stackless.tasklet(stackless.run)()
    stackless.schedule()
    assert watchdogs() == [None, runner]
    runner.kill()
    assert (runner.alive, watchdogs()) == (False, [None])


@pytest.mark.parametrize("wait", ["schedule", "schedule_remove", "run of it", "switch to it", "receive"])
def test_error_without_run_goes_to_main(wait: str) -> None:
    def fail() -> None:
        raise LookupError("gone")

    task = stackless.tasklet(fail)()
    calls: dict[str, Callable[[], object]] = {
        "schedule": stackless.schedule,
        "schedule_remove": stackless.schedule_remove,
        "run of it": task.run,
        "switch to it": task.switch,
        "receive": stackless.channel().receive,
    }
    with pytest.raises(LookupError, match="gone"):
        calls[wait]()
    assert stackless.runcount == 1


# ---- threadblock -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 1_000_000])
def test_threadblock_waits_for_other_threads(timeout: int) -> None:
    channel, got = stackless.channel(), []

    def receive() -> None:
        for _ in range(3):
            got.append(channel.receive())

    task = stackless.tasklet(receive)()
    thread = threading.Thread(target=channel.send_sequence, args=[range(3)])
    thread.start()
    try:
        assert stackless.run(timeout, threadblock=True) is None
        assert (got, task.alive) == ([0, 1, 2], False)
    finally:
        while task.alive:
            stackless.run(threadblock=True)
        thread.join()


@pytest.mark.timeout(10)
def test_threadblock_ends_with_the_last_tasklet() -> None:
    # Only a last tasklet that blocks makes it wait; one that ends does not.
    channel, release = stackless.channel(), threading.Event()
    task = stackless.tasklet(channel.receive)()
    thread = threading.Thread(target=lambda: (channel.send(None), release.wait()))
    thread.start()
    try:
        assert stackless.run(threadblock=True) is None
        assert not task.alive
    finally:
        release.set()
        thread.join()


def test_run_without_threadblock_does_not_wait_for_other_threads() -> None:
    channel, release = stackless.channel(), threading.Event()
    task = stackless.tasklet(channel.receive)()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert stackless.run() is None
    assert task.blocked
    release.set()
    thread.join()
    task.kill()
