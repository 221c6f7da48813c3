"""`run(timeout)`: tasklets that are interrupted after a number of bytecode instructions.

What postpones an interrupt, soft ones and calls inside each other are in test_watchdog_modes.py.
"""

from __future__ import annotations

import pytest
import stackless


class Counter:
    """Loops that count their rounds; a round takes some ten instructions, and surely between 3 and 100."""

    def __init__(self) -> None:
        self.rounds = 0
        self.stopped = False

    def loop(self, rounds: int = 10**9) -> None:
        while self.rounds < rounds and not self.stopped:
            self.rounds += 1

    def yielding_loop(self, between: int = 10) -> None:
        while not self.stopped and self.rounds < 10**5:
            for _ in range(between):
                self.rounds += 1
            stackless.schedule()


def watchdogs() -> list[object]:
    """Return whom an interrupt wakes, or None, and then the callers of run(), the innermost last."""
    return list(stackless.get_thread_info(-1, 1 << 31)[3] or [None])


def test_busy_tasklet_is_interrupted_removed_and_returned() -> None:
    counter = Counter()
    task = stackless.tasklet(counter.loop)()
    assert stackless.run(1000) is task
    assert 1000 / 100 < counter.rounds < 1000 / 3
    assert (task.alive, task.paused, task.scheduled, task.blocked) == (True, True, False, False)
    assert (stackless.runcount, watchdogs()) == (1, [None])
    assert task.frame is not None
    assert task.frame.f_code is Counter.loop.__code__
    task.kill()


def test_interrupted_tasklet_goes_on_where_it_was() -> None:
    counter = Counter()
    task = stackless.tasklet(counter.loop)(200)
    interrupts = 0
    while (victim := stackless.run(300)) is not None:
        assert victim is task
        interrupts += 1
        victim.insert()
    assert (counter.rounds, task.alive) == (200, False)
    assert interrupts >= 2


@pytest.mark.parametrize("timeout", [1, 2, 7])
def test_tiny_timeout_makes_progress(timeout: int) -> None:
    counter = Counter()
    stackless.tasklet(counter.loop)(5)
    for _ in range(1000):
        victim = stackless.run(timeout)
        if victim is None:
            break
        victim.insert()
    assert counter.rounds == 5


def test_shorter_timeout_interrupts_more_often() -> None:
    def interrupts(timeout: int) -> int:
        stackless.tasklet(Counter().loop)(300)
        count = 0
        while (victim := stackless.run(timeout)) is not None:
            count += 1
            victim.insert()
        return count

    counts = [interrupts(timeout) for timeout in (100, 200, 1000, 10**6)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] >= 1.8 * counts[1] > counts[2] > counts[3] == 0


def test_count_of_instructions_is_the_same_each_time() -> None:
    def rounds() -> int:
        counter = Counter()
        victim = stackless.tasklet(counter.loop)()
        assert stackless.run(5000) is victim
        victim.kill()
        return counter.rounds

    rounds()
    assert rounds() == rounds() == rounds()


def test_inserted_victims_take_turns() -> None:
    tasks = [stackless.tasklet(Counter().loop)() for _ in range(3)]
    victims = []
    for _ in range(9):
        victim = stackless.run(500)
        victims.append(victim)
        victim.insert()
    assert victims == tasks * 3
    for task in tasks:
        task.remove().kill()


def test_queue_behind_the_victim_stays() -> None:
    steps: list[str] = []
    busy = stackless.tasklet(Counter().loop)()
    stackless.tasklet(steps.append)("next")
    assert stackless.run(500) is busy
    assert (steps, stackless.runcount) == ([], 2)
    stackless.run()
    assert steps == ["next"]
    busy.kill()


def test_timeout_counts_anew_after_each_switch() -> None:
    counter = Counter()

    def work() -> None:
        for _ in range(50):
            counter.loop(counter.rounds + 5)
            stackless.schedule()

    for _ in range(2):
        stackless.tasklet(work)()
    assert stackless.run(1000) is None
    assert counter.rounds == 2 * 50 * 5


def test_total_timeout_counts_for_the_whole_run() -> None:
    counter = Counter()
    tasks = [stackless.tasklet(counter.yielding_loop)() for _ in range(2)]
    victim = stackless.run(3000, totaltimeout=True)
    assert victim in tasks
    assert victim.paused
    assert counter.rounds < 3000 / 3
    victim.insert()
    counter.stopped = True
    stackless.run()


def test_run_with_a_timeout_returns_none_when_nobody_can_run() -> None:
    task = stackless.tasklet(stackless.channel().receive)()
    assert stackless.run(1000) is None
    assert task.blocked
    task.kill()


@pytest.mark.parametrize("timeout", [0, -1, -1000])
def test_no_timeout_interrupts_nobody(timeout: int) -> None:
    counter = Counter()
    stackless.tasklet(counter.loop)(20_000)
    assert stackless.run(timeout) is None
    assert counter.rounds == 20_000


def test_timeout_ends_with_the_run_that_had_it() -> None:
    def fail() -> None:
        raise LookupError("gone")

    stackless.tasklet(fail)()
    with pytest.raises(LookupError, match="gone"):
        stackless.run(500)
    assert watchdogs() == [None]
    counter = Counter()
    task = stackless.tasklet(counter.loop)(20_000)
    task.run()
    assert counter.rounds == 20_000


def test_error_of_an_interrupted_tasklet_is_raised_later() -> None:
    def fail() -> None:
        Counter().loop(1000)
        raise LookupError("gone")

    stackless.tasklet(fail)()
    with pytest.raises(LookupError, match="gone"):
        while True:
            stackless.run(1000).insert()


def test_victim_can_be_killed_and_runs_its_finally() -> None:
    ends: list[str] = []

    def work() -> None:
        try:
            Counter().loop()
        finally:
            ends.append("ended")

    victim = stackless.tasklet(work)()
    assert stackless.run(500) is victim
    victim.kill()
    assert (victim.alive, ends) == (False, ["ended"])


@pytest.mark.parametrize("totaltimeout", [False, True])
def test_function_that_had_begun_before_is_interrupted_too(totaltimeout: bool) -> None:
    counter = Counter()

    def work() -> None:
        stackless.schedule()
        while counter.rounds < 10**5:
            counter.rounds += 1

    task = stackless.tasklet(work)()
    stackless.schedule()
    assert stackless.run(1000, totaltimeout=totaltimeout) is task
    assert counter.rounds < 1000
    task.kill()


def call_in_a_loop() -> None:
    def one() -> int:
        return 1

    while one():
        pass


def comprehend_a_generator() -> None:
    def numbers() -> object:
        number = 0
        while True:
            yield (number := number + 1)

    [None for _ in numbers()]  # type: ignore[attr-defined]


def recurse() -> None:
    while True:
        recurse_once(20)


def recurse_once(depth: int) -> None:
    if depth:
        recurse_once(depth - 1)


@pytest.mark.parametrize("work", [call_in_a_loop, comprehend_a_generator, recurse])
def test_calls_generators_and_comprehensions_are_counted(work: object) -> None:
    task = stackless.tasklet(work)()  # type: ignore[arg-type]
    assert stackless.run(2000) is task
    task.kill()
