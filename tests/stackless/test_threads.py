"""A scheduler for each thread: tasklets of other threads, channels between threads, and the end of a thread."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import TYPE_CHECKING, Self

import pytest
import stackless
from lissom import TaskletExit

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(20)


def nothing() -> None:
    """Do nothing."""


class Remote:
    """A thread with paused tasklets, one for each function, which have not started.

    Its main tasklet waits on a channel, so that its tasklets run as they are queued. With `busy` it waits without the
    scheduler instead: nothing runs before the end. At the end of the block it runs what is queued, and then it ends.
    """

    def __init__(self, *functions: Callable[[], object], busy: bool = False) -> None:
        self.functions = functions
        self.busy = busy
        self.tasks: list[stackless.tasklet] = []
        self.errors: list[BaseException] = []
        self.ready, self.release = threading.Event(), threading.Event()
        self.control = stackless.channel()
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        try:
            self.main = stackless.getmain()
            self.tasks.extend(stackless.tasklet(function, ()) for function in self.functions)
            self.prepare()
            self.ready.set()
            if self.busy:
                self.release.wait()
            else:
                self.control.receive()
            self.at_end()
        except BaseException as error:  # noqa: BLE001 (looked at by the test)
            self.errors.append(error)
        finally:
            self.ready.set()

    def prepare(self) -> None:
        """What the thread does first."""

    def at_end(self) -> None:
        """What the thread does last."""
        stackless.run()

    @property
    def ident(self) -> int:
        assert self.thread.ident is not None
        return self.thread.ident

    def __enter__(self) -> Self:
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        if not self.busy and self.control.balance < 0:
            self.control.send(None)
        self.thread.join()


class Lingering(Remote):
    """As `Remote`, but what is queued or waits at the end stays so."""

    def __init__(self, *functions: Callable[[], object], start: bool = False) -> None:
        super().__init__(*functions, busy=True)
        self.start = start

    def prepare(self) -> None:
        if self.start:
            for task in self.tasks:
                task.run()

    def at_end(self) -> None:
        """Leave everything as it is."""


# ---- a scheduler for each thread -------------------------------------------------------------------------------------


def test_each_thread_has_a_main_tasklet_of_its_own() -> None:
    seen: list[object] = []

    def look() -> None:
        main = stackless.main
        seen.extend((main, main is stackless.current, main.is_main, main.thread_id, stackless.runcount))

    thread = threading.Thread(target=look)
    thread.start()
    ident = thread.ident
    thread.join()
    assert seen[0] is not stackless.main
    assert seen[1:] == [True, True, ident, 1]


def test_main_and_current_of_another_thread_are_not_mine() -> None:
    with Remote() as remote:
        assert (remote.main.is_main, remote.main.thread_id) == (True, remote.ident)
        assert stackless.main.thread_id == threading.get_ident()
    assert (remote.main.thread_id, remote.main.alive) == (-1, False)


def test_queues_are_separate() -> None:
    steps: list[str] = []
    mine = stackless.tasklet(steps.append)("mine")
    with Remote(lambda: steps.append("remote")) as remote:
        remote.tasks[0].insert()
    assert steps == ["remote"]
    assert mine.scheduled
    stackless.run()


def test_exception_goes_to_the_main_tasklet_of_its_thread() -> None:
    def fail() -> None:
        raise LookupError("gone")

    with Remote(fail) as remote:
        remote.tasks[0].run()
        stackless.run()
        remote.thread.join()
    assert [str(error) for error in remote.errors] == ["gone"]


# ---- acting on tasklets of another thread ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["insert", "run"])
def test_tasklet_of_another_thread_runs_there(step: str) -> None:
    answers = stackless.channel()
    with Remote(lambda: answers.send(threading.get_ident())) as remote:
        result = getattr(remote.tasks[0], step)()
        assert result is (remote.tasks[0] if step == "insert" else None)
        assert answers.receive() == remote.ident


@pytest.mark.parametrize("step", ["setup", "__call__"])
def test_setup_queues_in_the_thread_of_the_tasklet(step: str) -> None:
    answers = stackless.channel()

    class WithBound(Remote):
        def prepare(self) -> None:
            self.tasks.append(stackless.tasklet(lambda value: answers.send((value, threading.get_ident()))))

    with WithBound() as remote:
        assert getattr(remote.tasks[0], step)(5) is remote.tasks[0]
        assert answers.receive() == (5, remote.ident)


@pytest.mark.parametrize("step", ["insert", "run", "kill", "throw"])
def test_caller_goes_on_and_its_own_queue_does_not_run(step: str) -> None:
    steps: list[str] = []
    mine = stackless.tasklet(steps.append)("mine")
    with Remote(nothing) as remote:
        getattr(remote.tasks[0], step)(*([TaskletExit] if step == "throw" else []))
        assert (steps, mine.scheduled, stackless.runcount) == ([], True, 2)
    assert not remote.tasks[0].alive
    stackless.run()


def test_run_puts_the_tasklet_before_those_that_were_inserted() -> None:
    steps: list[int] = []
    with Remote(*[lambda number=number: steps.append(number) for number in range(3)], busy=True) as remote:
        remote.tasks[1].insert()
        remote.tasks[2].insert()
        remote.tasks[0].run()
        assert stackless.get_thread_info(remote.ident)[2] == 4
    assert steps == [0, 1, 2]


def test_remove_and_insert_do_not_touch_the_queue_of_the_caller() -> None:
    with Remote(nothing, busy=True) as remote:
        task = remote.tasks[0]
        for count in (1, 1):
            task.insert()
            assert stackless.get_thread_info(remote.ident)[2] == 2
            task.remove()
            assert (stackless.runcount, stackless.get_thread_info(remote.ident)[2]) == (count, 1)
        assert task.paused


def test_switch_to_a_tasklet_of_another_thread_raises() -> None:
    with Remote(nothing) as remote:
        with pytest.raises(RuntimeError, match=r"^can't switch to a different thread\.$"):
            remote.tasks[0].switch()
        assert (remote.tasks[0].paused, stackless.current.scheduled) == (True, True)


def test_current_tasklet_of_another_thread_cannot_be_bound_or_removed() -> None:
    with Remote(busy=True) as remote:
        with pytest.raises(RuntimeError, match=r"^can't \(re\)bind the current tasklet$"):
            remote.main.bind(nothing)
        with pytest.raises(RuntimeError, match=r"^The current tasklet cannot be removed\.$"):
            remote.main.remove()


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("wait", ["schedule_remove", "receive"])
def test_exception_is_raised_in_the_thread_of_the_tasklet(wait: str, pending: bool) -> None:
    channel, answers = stackless.channel(), stackless.channel()

    def work() -> None:
        answers.send("started")
        try:
            channel.receive() if wait == "receive" else stackless.schedule_remove()
        except LookupError as error:
            answers.send((str(error), threading.get_ident()))

    with Remote(work) as remote:
        remote.tasks[0].run()
        assert answers.receive() == "started"
        assert remote.tasks[0].throw(LookupError, "thrown", pending=pending) is None
        assert answers.receive() == ("thrown", remote.ident)
    assert channel.balance == 0


def test_main_tasklet_of_another_thread_can_be_thrown_into() -> None:
    with Remote() as remote:
        remote.main.throw(LookupError("for the other main"))
        remote.thread.join()
    assert [str(error) for error in remote.errors] == ["for the other main"]
    assert remote.control.balance == 0


@pytest.mark.parametrize("trap", [0, 1])
def test_kill_of_a_tasklet_that_has_not_started_ends_it_in_its_thread(trap: int) -> None:
    steps: list[str] = []
    with Remote(lambda: steps.append("ran"), busy=True) as remote:
        stackless.switch_trap(trap)
        remote.tasks[0].kill()
        stackless.switch_trap(-trap)
        assert remote.tasks[0].scheduled
    assert (steps, remote.tasks[0].alive) == ([], False)


# ---- channels --------------------------------------------------------------------------------------------------------


def test_values_and_exceptions_pass_between_threads() -> None:
    requests, answers = stackless.channel(), stackless.channel()

    def failing_function(value: object) -> None:
        raise LookupError(value)

    def serve() -> None:
        for value in requests:
            try:
                failing_function(value)
            except LookupError:
                answers.send_throw(*sys.exc_info())

    with Remote(serve) as remote:
        remote.tasks[0].run()
        for number in range(100):
            requests.send(number)
            with pytest.raises(LookupError) as caught:
                answers.receive()
            assert caught.value.args == (number,)
            assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "failing_function"
        requests.send_exception(StopIteration)


@pytest.mark.parametrize("preference", [-1, 0, 1])
@pytest.mark.parametrize("direction", ["send", "receive"])
def test_preference_does_not_count_between_threads(direction: str, preference: int) -> None:
    channel, steps = stackless.channel(), []
    channel.preference = preference
    channel.schedule_all = preference == 0

    class Waiting(Lingering):
        def at_end(self) -> None:
            steps.append(channel.balance)
            stackless.run()

    waits = channel.receive if direction == "send" else (lambda: channel.send("value"))
    stackless.tasklet(steps.append)("mine")
    with Waiting(waits, start=True) as remote:
        assert channel.balance == (-1 if direction == "send" else 1)
        assert (channel.send("value") if direction == "send" else channel.receive() and None) is None
        assert (steps, remote.tasks[0].scheduled, remote.tasks[0].blocked) == ([], True, False)
    assert (steps, remote.tasks[0].alive) == ([0], False)
    stackless.run()


def test_channel_callback_comes_after_an_exchange_between_threads() -> None:
    channel, seen = stackless.channel(), []
    with Lingering(channel.receive, start=True):
        stackless.set_channel_callback(lambda ch, task, *flags: seen.append((task, *flags, ch.balance)))
        channel.send("value")
        stackless.set_channel_callback(None)
    assert seen == [(stackless.main, 1, 0, 0)]


def test_waiters_of_several_threads_are_served_in_order() -> None:
    channel, got = stackless.channel(), []

    class Finishing(Lingering):
        def at_end(self) -> None:
            stackless.run()

    def receive(name: str) -> Callable[[], None]:
        return lambda: got.append((name, channel.receive()))

    with Finishing(receive("first"), start=True) as first, Finishing(receive("second"), start=True):
        stackless.tasklet(receive("mine"))().run()
        assert (channel.balance, channel.queue) == (-3, first.tasks[0])
        channel.send_sequence(range(3))
    stackless.run()
    assert sorted(got) == [("first", 0), ("mine", 2), ("second", 1)]


# ---- bind_thread -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["none", "minus one", "ident"])
def test_bind_thread_moves_a_tasklet_that_has_not_started(arguments: str) -> None:
    idents: list[int] = []
    given = {"none": (), "minus one": (-1,), "ident": (threading.get_ident(),)}[arguments]
    with Remote(lambda: idents.append(threading.get_ident())) as remote:
        task = remote.tasks[0]
        assert task.thread_id == remote.ident
        assert task.bind_thread(*given) is None
        assert (task.thread_id, task.alive, task.paused) == (threading.get_ident(), True, True)
    task.insert()
    stackless.run()
    assert (idents, task.alive) == ([threading.get_ident()], False)


def test_bind_thread_moves_to_another_thread() -> None:
    answers = stackless.channel()
    task = stackless.tasklet(lambda: answers.send(threading.get_ident()), ())
    with Remote() as remote:
        task.bind_thread(remote.ident)
        assert task.thread_id == remote.ident
        task.run()
        assert answers.receive() == remote.ident


def test_bind_thread_to_the_own_thread_does_nothing() -> None:
    queued = stackless.tasklet(nothing)()
    for task in (queued, stackless.current):
        assert task.bind_thread() is None
    stackless.run()


def test_bind_thread_refuses_runnable_and_started_tasklets() -> None:
    with Lingering(stackless.schedule_remove, stackless.channel().receive, stackless.schedule, start=True) as remote:
        paused, blocked, queued = remote.tasks
        for task in (paused, blocked):
            with pytest.raises(RuntimeError, match=r"^tasklet has C state on its stack$"):
                task.bind_thread()
        with pytest.raises(RuntimeError, match=r"^can't \(re\)bind a runnable tasklet$"):
            queued.bind_thread()
        with pytest.raises(RuntimeError, match=r"^can't \(re\)bind a runnable tasklet$"):
            remote.main.bind_thread()
        assert {task.thread_id for task in remote.tasks} == {remote.ident}


@pytest.mark.parametrize("wrong", [1, 2**40])
def test_bind_thread_refuses_unknown_threads(wrong: int) -> None:
    task = stackless.tasklet(nothing, ())
    with pytest.raises(ValueError, match=r"^bad thread$"):
        task.bind_thread(wrong)
    with pytest.raises((ValueError, OverflowError)):
        task.bind_thread(-2)
    with pytest.raises(TypeError, match="int"):
        task.bind_thread("1")
    assert task.thread_id == threading.get_ident()


# ---- the end of a thread ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queued", [False, True])
def test_tasklet_that_never_started_is_dead_after_the_end_of_its_thread(queued: bool) -> None:
    steps: list[str] = []
    with Lingering(lambda: steps.append("ran")) as remote:
        task = remote.tasks[0]
        if queued:
            task.insert()
        assert (task.alive, task.thread_id) == (True, remote.ident)
    assert (task.alive, task.paused, task.scheduled, task.blocked, task.thread_id) == (False,) * 4 + (-1,)
    assert (steps, task.next, task.prev, task.frame, task.is_current, task.is_main) == (
        [],
        None,
        None,
        None,
        False,
        False,
    )


def test_tasklet_that_never_started_can_be_moved_before_and_after_the_end_of_its_thread() -> None:
    steps: list[str] = []
    with Lingering(lambda: steps.append("before"), lambda: steps.append("after")) as remote:
        before, after = remote.tasks
        before.bind_thread()
    after.bind_thread()
    for task in (before, after):
        assert (task.thread_id, task.alive, task.paused) == (threading.get_ident(), True, True)
        task.run()
    assert steps == ["before", "after"]


@pytest.mark.parametrize("wait", ["schedule", "schedule_remove", "receive", "run"])
def test_started_tasklet_is_killed_at_the_end_of_its_thread(wait: str) -> None:
    channel, ends = stackless.channel(), []

    def work() -> None:
        try:
            (channel.receive if wait == "receive" else getattr(stackless, wait))()
        except TaskletExit:
            ends.append(threading.get_ident())
            raise

    with Lingering(work, start=True) as remote:
        assert remote.tasks[0].alive
        ident = remote.ident
    assert ends == [ident]
    assert (remote.tasks[0].alive, remote.tasks[0].thread_id, channel.balance) == (False, -1, 0)


def test_tasklet_that_survives_does_not_keep_its_thread_from_ending() -> None:
    kills: list[int] = []

    def work() -> None:
        while True:
            try:
                stackless.schedule_remove()
            except TaskletExit:
                kills.append(1)

    with Lingering(work, start=True) as remote:
        pass
    assert 1 <= len(kills) <= 10
    assert (remote.tasks[0].alive, remote.tasks[0].thread_id) == (False, -1)


def test_methods_of_a_tasklet_whose_thread_has_ended() -> None:
    with Lingering(nothing) as remote:
        task = remote.tasks[0]
    no_thread = pytest.raises(RuntimeError, match=r"^tasklet has no thread$")
    flags = ("alive", "paused", "blocked", "scheduled", "atomic", "block_trap", "ignore_nesting")
    assert [getattr(task, flag) for flag in flags] == [False] * 7
    assert (task.restorable, task.trace_function, task.profile_function, task.next, task.prev) == (True, *[None] * 4)
    for pending in (False, True):
        with no_thread:
            task.throw(LookupError, pending=pending)
        with no_thread:
            task.throw(TaskletExit, pending=pending)
    with no_thread:
        task.raise_exception(LookupError)
    for step in (task.run, task.switch):
        with no_thread:
            step()
    with pytest.raises(RuntimeError, match=r"^Target thread isn't initialized$"):
        task.insert()
    assert task.remove() is task
    task.bind(None)
    task.bind(nothing)
    for step in (task.setup, lambda: task.bind(nothing, ())):
        with no_thread:
            step()
    assert task.__reduce__()[0] is stackless.tasklet
    assert (task.set_atomic(task.set_atomic(True)), task.set_ignore_nesting(False)) == (True, False)
    assert (task.tempval, task.thread_id) == (nothing, -1)


def test_kill_of_a_tasklet_whose_thread_has_ended_drops_its_call() -> None:
    with Lingering(nothing) as remote:
        task = remote.tasks[0]
    assert task.kill() is None
    task.bind_thread()
    assert (task.thread_id, task.alive) == (threading.get_ident(), False)
    with pytest.raises(RuntimeError, match=r"unbound\(dead\)"):
        task.run()
