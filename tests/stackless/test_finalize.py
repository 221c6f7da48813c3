"""The end of tasklets that nobody refers to: they are killed, and their `finally` blocks run."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import TYPE_CHECKING

import pytest
import stackless
from lissom import TaskletExit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script


class Thing:
    """Something that can be referred to weakly."""


class Ends(list[str]):
    """What ended, in order."""

    def waits(self, wait: Callable[[], object], name: str = "ended") -> Callable[[], None]:
        """Return a function that waits, and notes its end."""

        def work() -> None:
            try:
                wait()
            except TaskletExit:
                self.append("killed")
                raise
            finally:
                self.append(name)

        return work


@pytest.fixture
def ends() -> Ends:
    gc.collect()
    return Ends()


def pause() -> None:
    """Leave the queue, without a reference to oneself."""
    stackless.schedule_remove(None)


def started(function: Callable[[], object]) -> stackless.tasklet:
    """Return a tasklet that has run until it waits."""
    task = stackless.tasklet(function)()
    task.run()
    return task


# ---- references ------------------------------------------------------------------------------------------------------


def test_paused_tasklet_is_killed_with_its_last_reference(ends: Ends) -> None:
    task = started(ends.waits(pause))
    reference = weakref.ref(task)
    assert (ends, reference() is task) == ([], True)
    del task
    assert (ends, reference()) == (["killed", "ended"], None)


def test_finalising_releases_what_the_frames_hold() -> None:
    thing = Thing()
    reference = weakref.ref(thing)

    def work(thing: Thing) -> None:
        other = [thing]
        pause()
        del other

    task = stackless.tasklet(work)(thing)
    task.run()
    del thing
    assert reference() is not None
    del task
    assert reference() is None


def test_finally_may_switch_and_use_channels(ends: Ends) -> None:
    channel = stackless.channel()

    def work() -> None:
        try:
            pause()
        finally:
            ends.append("before")
            stackless.schedule()
            channel.send("from the end")
            ends.append("after")

    task = started(work)
    del task
    assert ends == ["before"]
    assert channel.receive() == "from the end"
    stackless.run()
    assert ends == ["before", "after"]


def test_tasklet_that_never_started_is_dropped_without_running(ends: Ends) -> None:
    thing = Thing()
    reference = weakref.ref(thing)
    task = stackless.tasklet(ends.append, (thing,))
    del thing
    assert reference() is not None
    del task
    assert (ends, reference()) == ([], None)


def test_queued_and_blocked_tasklets_are_kept_by_the_scheduler_and_the_channel(ends: Ends) -> None:
    channel = stackless.channel()
    started(ends.waits(channel.receive))
    stackless.tasklet(ends.append)("queued")
    gc.collect()
    assert ends == []
    stackless.run()
    channel.send(None)
    assert ends == ["queued", "ended"]


def test_last_reference_dropped_in_another_tasklet(ends: Ends) -> None:
    holder = [started(ends.waits(pause))]
    stackless.tasklet(holder.clear)()
    stackless.run()
    assert ends == ["killed", "ended"]


def test_last_reference_dropped_in_another_thread_ends_it_in_its_own(ends: Ends) -> None:
    idents: list[int] = []

    def work() -> None:
        try:
            pause()
        finally:
            idents.append(threading.get_ident())

    holder = [started(work)]
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    stackless.run()
    assert idents == [threading.get_ident()]


# ---- those that survive ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3, 9])
def test_tasklet_that_catches_is_killed_again(times: int) -> None:
    kills: list[int] = []

    def work() -> None:
        while len(kills) < times + 1:
            try:
                pause()
            except TaskletExit:
                kills.append(1)

    task = started(work)
    reference = weakref.ref(task)
    del task
    assert (len(kills), reference()) == (times + 1, None)
    assert gc.garbage == []


def test_tasklet_that_survives_ten_kills_is_put_into_garbage() -> None:
    kills: list[int] = []

    def work() -> None:
        while len(kills) < 100:
            try:
                pause()
            except TaskletExit:
                kills.append(1)

    task = started(work)
    del task
    assert len(kills) == 10
    assert len(gc.garbage) == 1
    task = gc.garbage.pop()
    assert (task.alive, task.paused, task.tempval) == (True, True, None)
    while task.alive:
        task.kill()
    assert len(kills) == 100


def test_tasklet_that_saves_itself_is_killed_all_the_same() -> None:
    saved: list[stackless.tasklet] = []

    def work() -> None:
        try:
            pause()
        finally:
            saved.append(stackless.current)

    task = started(work)
    del task
    assert [task.alive for task in saved] == [False]
    assert gc.garbage == []


def test_del_of_a_subclass_is_called_once_and_may_collect() -> None:
    calls: list[bool] = []

    class WithDel(stackless.tasklet):
        def __del__(self) -> None:
            calls.append(self.alive)
            gc.collect()
            super().__del__()

    WithDel(lambda: None)()
    stackless.run()
    assert calls == [False]
    task = WithDel(pause)()
    task.run()
    del task
    assert calls[0] is False
    assert len(calls) == 2


def test_result_with_a_finalizer_is_released_at_the_end() -> None:
    calls: list[str] = []

    class WithDel:
        def __del__(self) -> None:
            calls.append("released")

    stackless.tasklet(WithDel)()
    stackless.run()
    assert calls == ["released"]


# ---- cycles ----------------------------------------------------------------------------------------------------------


def test_paused_tasklet_that_only_its_own_frame_refers_to_is_collected(ends: Ends) -> None:
    def work() -> None:
        me = stackless.current
        ends.waits(stackless.schedule_remove)()
        del me

    reference = weakref.ref(started(work))
    gc.collect()
    assert (ends, reference()) == (["killed", "ended"], None)


def test_blocked_tasklet_whose_channel_only_its_own_frame_refers_to_is_collected(ends: Ends) -> None:
    references: list[weakref.ref[object]] = []

    def work() -> None:
        channel = stackless.channel()
        references.append(weakref.ref(channel))
        ends.waits(channel.receive)()

    references.append(weakref.ref(started(work)))
    gc.collect()
    assert ends == ["killed", "ended"]
    assert [reference() for reference in references] == [None, None]


def test_two_tasklets_that_wait_for_each_other_are_collected(ends: Ends) -> None:
    def work(mine: stackless.channel, other: stackless.channel) -> None:
        ends.waits(mine.receive)()
        other.send(None)

    first, second = stackless.channel(), stackless.channel()
    references = []
    for pair in [(first, second), (second, first)]:
        task = stackless.tasklet(work)(*pair)
        task.run()
        references.append(weakref.ref(task))
    del first, second, pair, task
    gc.collect()
    assert ends.count("ended") == 2
    assert [reference() for reference in references] == [None, None]


@pytest.mark.xfail(
    sys.version_info < (3, 14),
    reason="a loop that has not been specialised keeps its generator where the collector cannot see it",
    strict=True,
)
def test_cycle_through_a_generator_and_a_closure_is_collected(ends: Ends) -> None:
    def work() -> None:
        channel = stackless.channel()

        def values() -> Iterator[None]:
            yield ends.waits(lambda: channel.receive())()

        for _ in values():
            pass

    reference = weakref.ref(started(work))
    gc.collect()
    assert (ends, reference()) == (["killed", "ended"], None)


def test_tasklet_that_somebody_outside_refers_to_is_not_collected(ends: Ends) -> None:
    def work() -> None:
        channel = stackless.channel()
        me = stackless.current
        ends.waits(channel.receive)()
        del me

    task = started(work)
    gc.collect()
    assert (ends, task.blocked) == ([], True)
    task.kill()
    assert ends == ["killed", "ended"]


def test_channel_that_is_dropped_drops_its_waiters(ends: Ends) -> None:
    channel = stackless.channel()
    reference = weakref.ref(channel)

    def work(get: Callable[[], stackless.channel | None]) -> None:
        found = get()
        assert found is not None
        wait = ends.waits(found.receive)
        del found
        wait()

    stackless.tasklet(work)(reference)
    stackless.run()
    del channel
    gc.collect()
    assert (ends, reference()) == (["killed", "ended"], None)


# ---- many, and the end of the program --------------------------------------------------------------------------------


@pytest.mark.leakcheck(rounds=4)
@pytest.mark.parametrize("state", ["paused", "blocked", "queued", "in run()", "never started"])
def test_killed_tasklets_leave_nothing_behind(state: str) -> None:
    channel = stackless.channel()
    waits: dict[str, Callable[[], object]] = {
        "paused": stackless.schedule_remove,
        "blocked": channel.receive,
        "queued": stackless.schedule,
        "in run()": stackless.run,
        "never started": stackless.schedule,
    }
    tasks = [stackless.tasklet(waits[state]) for _ in range(200)]
    for task in tasks:
        task()
        if state != "never started":
            task.run()
        if task.scheduled and not task.blocked:
            task.remove()
        task.kill()
    assert not any(task.alive for task in tasks)
    assert channel.balance == 0


@pytest.mark.parametrize("state", ["paused", "blocked", "queued", "in run()", "never started", "surviving"])
@pytest.mark.parametrize("thread", [False, True])
def test_program_ends_with_live_tasklets(script: Script, state: str, thread: bool) -> None:
    done = script(
        f"""
        import stackless, sys, threading
        channel = stackless.channel()

        def work():
            while True:
                try:
                    {{"paused": stackless.schedule_remove, "blocked": channel.receive, "queued": stackless.schedule,
                      "in run()": stackless.run, "surviving": stackless.schedule_remove}}[{state!r}]()
                except TaskletExit:
                    if {state!r} != "surviving":
                        raise

        def prepare():
            global task
            task = stackless.tasklet(work, ())
            if {state!r} != "never started":
                task.run()
            ready.set()
            if {thread}:
                threading.Event().wait()

        ready = threading.Event()
        if {thread}:
            threading.Thread(target=prepare, daemon=True).start()
            ready.wait()
        else:
            prepare()
        assert task.alive
        sys.exit(42)
        """,
        check=False,
    )
    assert (done.returncode, done.stderr) == (42, "")
