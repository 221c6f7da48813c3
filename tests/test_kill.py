"""`kill`, `throw` and `raise_exception` on a tasklet in every state, and what becomes of one that nobody knows."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Script


class Probe:
    """A tasklet's function that says how it ended."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.wait = wait
        self.end = "never started"

    def __call__(self) -> None:
        self.end = "waiting"
        try:
            self.wait()
        except BaseException as error:
            self.end = type(error).__name__
            raise
        finally:
            self.end += ", finally"


def waits() -> dict[str, Callable[[], object]]:
    """Return one way of waiting for each state that a started tasklet can be in."""
    channel, ended = lissom.channel(), lissom.channel()
    other = lissom.spawn(ended.receive)
    lissom.schedule()
    return {
        "queued": lissom.schedule,
        "paused": lissom.schedule_remove,
        "receiving": channel.receive,
        "sending": lambda: channel.send(1),
        "sleeping": lambda: lissom.sleep(60),
        "joining": lambda: (lissom.join(other), ended.send(1)),
        "running others": lambda: lissom.run(),
        "offloading": lambda: lissom.offload(__import__("time").sleep, 0.02),
    }


STATES = list(waits())


def probe(state: str) -> tuple[lissom.tasklet, Probe]:
    """Return a tasklet in that state, and what tells of its end."""
    function = Probe(waits()[state])
    tasklet = lissom.spawn(function)
    lissom.schedule()
    assert function.end == "waiting"
    return tasklet, function


# ---- kill ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_kill_raises_tasklet_exit_where_it_waits(state: str) -> None:
    tasklet, function = probe(state)
    tasklet.kill()
    assert function.end == "TaskletExit, finally"
    assert (tasklet.alive, tasklet.blocked, tasklet.scheduled) == (False, False, False)
    assert lissom.join(tasklet) is None


@pytest.mark.parametrize("state", STATES)
def test_pending_kill_raises_when_it_next_runs(state: str) -> None:
    tasklet, function = probe(state)
    tasklet.kill(pending=True)
    assert function.end == "waiting"
    assert tasklet.alive
    lissom.schedule()
    assert function.end == "TaskletExit, finally"
    assert not tasklet.alive


@pytest.mark.parametrize("state", STATES)
def test_throw_raises_the_exception_and_the_joiner_gets_it(state: str) -> None:
    tasklet, function = probe(state)
    joiner = lissom.spawn(lissom.join, tasklet)
    lissom.schedule()
    if tasklet.alive:
        tasklet.throw(LookupError, "thrown")
        assert function.end == "LookupError, finally"
        with pytest.raises(LookupError, match="thrown"):
            lissom.join(joiner)


def test_kill_of_one_never_started_runs_nothing_of_it() -> None:
    function = Probe(int)
    tasklet = lissom.spawn(function)
    tasklet.kill()
    lissom.run()
    assert function.end == "never started"
    assert not tasklet.alive


def test_kill_of_one_never_queued_runs_nothing_of_it() -> None:
    function = Probe(int)
    tasklet = lissom.tasklet(function, ())
    tasklet.kill()
    assert function.end == "never started"
    assert not tasklet.alive


def test_kill_of_the_dead_does_nothing() -> None:
    tasklet = lissom.spawn(lambda: "result")
    lissom.run()
    tasklet.kill()
    assert lissom.join(tasklet) == "result"
    lissom.tasklet().kill()


def test_kill_of_the_current_tasklet_raises_in_it() -> None:
    with pytest.raises(lissom.TaskletExit):
        lissom.getcurrent().kill()


def test_kill_of_the_main_tasklet_reaches_it_where_it_waits() -> None:
    main = lissom.getmain()
    lissom.spawn(main.kill)
    with pytest.raises(lissom.TaskletExit):
        lissom.sleep(60)


def test_killed_tasklet_can_catch_the_exit_and_live_on() -> None:
    def stubborn() -> str:
        try:
            lissom.sleep(60)
        except lissom.TaskletExit:
            lissom.sleep(0.001)
        return "alive"

    tasklet = lissom.spawn(stubborn)
    lissom.schedule()
    tasklet.kill()
    assert tasklet.alive
    assert lissom.join(tasklet) == "alive"


def test_kill_of_a_queued_tasklet_returns_when_it_has_ended() -> None:
    order: list[str] = []

    def worker(name: str) -> None:
        try:
            while True:
                lissom.schedule()
        finally:
            order.append(name)

    first, second = lissom.spawn(worker, "a"), lissom.spawn(worker, "b")
    lissom.schedule()
    second.kill()
    assert order == ["b"]
    first.kill()


def test_tasklet_may_kill_another_that_is_about_to_kill_it() -> None:
    tasklets: list[lissom.tasklet] = []

    def duel(other: int) -> None:
        lissom.schedule()
        tasklets[other].kill()

    tasklets += [lissom.spawn(duel, 1), lissom.spawn(duel, 0)]
    lissom.run()
    assert not any(tasklet.alive for tasklet in tasklets)


# ---- throw -----------------------------------------------------------------------------------------------------------


def thrown(*arguments: object) -> BaseException:
    """Throw into a waiting tasklet and return what arrived."""

    def catch() -> BaseException:
        try:
            lissom.schedule_remove()
        except BaseException as error:  # noqa: BLE001
            return error
        raise AssertionError("nothing was thrown")

    tasklet = lissom.spawn(catch)
    lissom.schedule()
    tasklet.throw(*arguments)
    return lissom.join(tasklet)


def test_throw_takes_a_class_an_instance_or_a_class_and_its_argument() -> None:
    instance = LookupError("own")
    assert thrown(instance) is instance
    assert type(thrown(LookupError)) is LookupError
    assert thrown(LookupError, "argument").args == ("argument",)


def test_throw_keeps_the_traceback_given() -> None:
    try:
        raise LookupError
    except LookupError as error:
        origin = error.__traceback__
    trace = thrown(LookupError, None, origin).__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    assert trace.tb_frame is sys._getframe()


def test_throw_of_what_is_no_exception_raises_type_error() -> None:
    tasklet = lissom.spawn(lissom.schedule_remove)
    lissom.schedule()
    for wrong in (5, int, None):
        with pytest.raises(TypeError, match="exceptions must"):
            tasklet.throw(wrong)
    assert tasklet.paused
    tasklet.kill()


def test_throw_to_the_dead_raises_runtime_error() -> None:
    tasklet = lissom.spawn(int)
    lissom.run()
    with pytest.raises(RuntimeError, match="cannot throw to a dead tasklet"):
        tasklet.throw(LookupError)
    with pytest.raises(RuntimeError, match="cannot throw to a dead tasklet"):
        tasklet.raise_exception(LookupError)


def test_throw_to_the_current_tasklet_raises_in_it() -> None:
    with pytest.raises(LookupError, match="mine"):
        lissom.getcurrent().throw(LookupError("mine"))


def test_raise_exception_passes_the_arguments() -> None:
    seen = []

    def catch() -> None:
        try:
            lissom.sleep(60)
        except OSError as error:
            seen.append((error.errno, error.strerror))

    tasklet = lissom.spawn(catch)
    lissom.schedule()
    tasklet.raise_exception(OSError, 5, "text")
    assert seen == [(5, "text")]


def test_pending_throw_into_one_never_started_raises_before_its_first_instruction() -> None:
    function = Probe(int)
    tasklet = lissom.spawn(function)
    tasklet.throw(LookupError, pending=True)
    with pytest.raises(LookupError):
        lissom.join(tasklet)
    assert function.end == "never started"


# ---- finalisation ----------------------------------------------------------------------------------------------------


def test_paused_tasklet_that_nobody_refers_to_is_ended_and_its_finally_runs() -> None:
    tasklet, function = probe("paused")
    del tasklet
    gc.collect()
    assert function.end == "TaskletExit, finally"


def test_paused_tasklet_in_a_cycle_is_ended_by_the_collector() -> None:
    ended = []

    def work() -> None:
        mine = lissom.getcurrent()  # the cycle: frame, tasklet, frame
        try:
            lissom.schedule_remove()
        finally:
            ended.append(mine is not None)

    lissom.spawn(work)
    lissom.schedule()
    gc.collect()
    assert ended == [True]


def test_tasklet_blocked_on_a_channel_that_nobody_knows_is_ended_by_the_collector() -> None:
    ended = []

    def work() -> None:
        channel = lissom.channel()
        try:
            channel.receive()
        finally:
            ended.append(True)

    lissom.spawn(work)
    lissom.schedule()
    gc.collect()
    assert ended == [True]


def test_exception_of_a_finally_block_at_finalisation_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        try:
            lissom.schedule_remove()
        finally:
            raise LookupError("in finally")

    lissom.spawn(work)
    lissom.schedule()
    gc.collect()
    assert "LookupError: in finally" in capsys.readouterr().err


def test_generator_of_a_killed_tasklet_is_closed() -> None:
    closed = []

    def numbers() -> object:
        try:
            yield 1
            yield lissom.schedule_remove()
        finally:
            closed.append(True)

    tasklet = lissom.spawn(lambda: list(numbers()))
    lissom.schedule()
    tasklet.kill()
    assert closed == [True]


def test_tasklet_that_survives_every_kill_does_not_keep_the_program_from_ending(script: Script) -> None:
    done = script(
        """
        import lissom
        def immortal():
            while True:
                try:
                    lissom.schedule_remove()
                except BaseException:
                    print("no")
        keep = lissom.spawn(immortal)
        lissom.schedule()
        """
    )
    assert done.stdout.count("no") == 10
