"""`atomic` and `set_atomic`: stretches that the watchdog of `run(timeout)` does not interrupt."""

from __future__ import annotations

import threading

import pytest
import stackless


class Counter:
    """A loop that counts its rounds."""

    rounds = 0

    def loop(self, rounds: int) -> None:
        while self.rounds < rounds:
            self.rounds += 1


@pytest.mark.parametrize("flag", ["atomic", "ignore_nesting"])
def test_setter_returns_the_old_flag(flag: str) -> None:
    for task in (stackless.current, stackless.tasklet()):
        change = getattr(task, f"set_{flag}")
        assert getattr(task, flag) is False
        assert change(True) is False
        assert getattr(task, flag) is True
        assert change(5) is True
        assert getattr(task, flag) is True
        assert change(0) is True
        assert change(False) is False
        assert getattr(task, flag) is False


def test_new_tasklets_do_not_inherit_atomic() -> None:
    with stackless.atomic():
        task = stackless.tasklet(lambda: None)()
        assert task.atomic is False
        seen: list[bool] = []
        stackless.tasklet(lambda: seen.append(stackless.current.atomic))().run()
        assert seen == [False]
        assert stackless.current.atomic is True
    task.kill()


def test_atomic_restores_what_was() -> None:
    current = stackless.current
    with stackless.atomic():
        assert current.atomic is True
        with stackless.atomic():
            assert current.atomic is True
        assert current.atomic is True
    assert current.atomic is False


def test_atomic_restores_after_an_exception_and_lets_it_pass() -> None:
    with pytest.raises(LookupError), stackless.atomic():
        raise LookupError
    assert stackless.current.atomic is False


def test_atomic_is_of_the_tasklet_that_runs_when_it_is_entered() -> None:
    section = stackless.atomic()
    seen: list[bool] = []

    def work() -> None:
        with section:
            seen.append(stackless.main.atomic)
            seen.append(stackless.current.atomic)

    stackless.tasklet(work)()
    stackless.run()
    assert seen == [False, True]


def test_atomic_tasklet_can_still_switch() -> None:
    with stackless.atomic():
        steps: list[str] = []
        stackless.tasklet(steps.append)("x")
        stackless.schedule()
        assert steps == ["x"]


def test_atomic_postpones_the_interrupt_to_its_end() -> None:
    counter = Counter()
    seen: list[int] = []

    def work() -> None:
        with stackless.atomic():
            counter.loop(2000)
            seen.append(counter.rounds)
        seen.append(-1)

    task = stackless.tasklet(work)()
    assert stackless.run(500) is task
    assert seen == [2000]
    task.run()
    assert seen == [2000, -1]


def test_set_atomic_false_delivers_the_interrupt_at_once() -> None:
    counter = Counter()
    seen: list[object] = []

    def work() -> None:
        old = stackless.current.set_atomic(True)
        counter.loop(2000)
        seen.append("atomic")
        seen.append(stackless.current.set_atomic(old))

    task = stackless.tasklet(work)()
    assert stackless.run(500) is task
    assert seen == ["atomic"]
    task.run()
    assert seen == ["atomic", True]


def test_inner_atomic_does_not_deliver_the_interrupt() -> None:
    counter = Counter()
    seen: list[str] = []

    def work() -> None:
        with stackless.atomic():
            with stackless.atomic():
                counter.loop(2000)
            seen.append("still atomic")
        seen.append("after")

    task = stackless.tasklet(work)()
    assert stackless.run(500) is task
    assert seen == ["still atomic"]
    task.kill()


def test_atomic_tasklet_that_ends_in_time_is_not_interrupted() -> None:
    counter = Counter()

    def work() -> None:
        with stackless.atomic():
            counter.loop(10)

    stackless.tasklet(work)()
    assert stackless.run(100_000) is None


def test_atomic_holds_against_a_soft_interrupt_until_the_next_switch() -> None:
    counter = Counter()

    def work() -> None:
        with stackless.atomic():
            counter.loop(1000)
        stackless.schedule()
        counter.loop(2000)

    for _ in range(2):
        stackless.tasklet(work)()
    assert stackless.run(500, soft=True) is None
    assert counter.rounds == 1000
    stackless.run()


def test_atomic_does_not_keep_other_threads_from_running() -> None:
    # In Stackless an atomic tasklet keeps the interpreter's lock as well; here threads go on.
    event = threading.Event()
    thread = threading.Thread(target=event.set)
    with stackless.atomic():
        thread.start()
        assert event.wait(10)
    thread.join()
