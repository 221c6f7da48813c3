"""Interrupts of `run(timeout)` that are postponed, soft, or belong to one of several calls."""

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


# ---- nesting in C code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed_by", ["the tasklet", "run()", "nobody"])
def test_code_called_by_c_code_is_interrupted_only_when_allowed(allowed_by: str) -> None:
    counter = Counter()
    task = stackless.tasklet(lambda: sorted([1], key=lambda _: counter.loop(2000) or 0))()
    assert (task.ignore_nesting, task.set_ignore_nesting(allowed_by == "the tasklet")) == (False, False)
    victim = stackless.run(500, ignore_nesting=allowed_by == "run()")
    if allowed_by == "nobody":
        assert (victim, counter.rounds) == (None, 2000)
    else:
        assert victim is task
        assert 0 < counter.rounds < 2000
        task.kill()


def test_postponed_interrupt_comes_when_the_c_code_returns() -> None:
    counter = Counter()

    def work() -> None:
        sorted([1], key=lambda _: counter.loop(1000) or 0)
        counter.loop()

    task = stackless.tasklet(work)()
    assert stackless.run(500) is task
    assert 1000 <= counter.rounds < 1000 + 500 / 3
    task.kill()


def test_switch_trap_postpones_the_interrupt() -> None:
    counter = Counter()

    def work() -> None:
        stackless.switch_trap(1)
        counter.loop(1000)
        stackless.switch_trap(-1)
        counter.loop()

    task = stackless.tasklet(work)()
    assert stackless.run(500) is task
    assert 1000 <= counter.rounds < 1000 + 500
    task.kill()


# ---- soft interrupts -------------------------------------------------------------------------------------------------


def test_soft_run_returns_none_at_the_next_switch_and_removes_nobody() -> None:
    counter = Counter()

    def work() -> None:
        counter.loop(2000)
        stackless.schedule()
        counter.loop(3000)

    tasks = [stackless.tasklet(work)() for _ in range(2)]
    assert stackless.run(500, soft=True) is None
    assert counter.rounds == 2000
    assert [task.scheduled for task in tasks] == [True, True]
    assert stackless.runcount == 3
    stackless.run()
    assert counter.rounds == 3000


def test_soft_run_is_not_ended_by_what_happens_before_the_time() -> None:
    counter = Counter()

    def work() -> None:
        for _ in range(20):
            counter.loop(counter.rounds + 5)
            stackless.schedule()

    stackless.tasklet(work)()
    stackless.tasklet(work)()
    assert stackless.run(1000, soft=True) is None
    assert (counter.rounds, stackless.runcount) == (200, 1)


def test_next_tasklet_runs_first_after_a_soft_interrupt() -> None:
    steps: list[str] = []

    def work(name: str) -> None:
        Counter().loop(500)
        steps.append(name)
        stackless.schedule()
        steps.append(name.upper())

    for name in "ab":
        stackless.tasklet(work)(name)
    stackless.run(1000, soft=True)
    assert steps == ["a"]
    stackless.run()
    assert "".join(steps) == "abAB"


def test_soft_run_keeps_channel_exchanges_whole() -> None:
    channels, sent, got = [stackless.channel() for _ in range(3)], [], []

    def station(number: int) -> None:
        for turn in range(10**6):
            if number or turn:
                got.append(channels[number].receive())
            Counter().loop(20)
            sent.append((number, turn))
            channels[(number + 1) % 3].send((number, turn))

    tasks = [stackless.tasklet(station)(number) for number in (2, 1, 0)]
    for _ in range(20):
        assert stackless.run(500, soft=True, totaltimeout=True) is None
        assert stackless.runcount in (2, 3, 4)
        assert len(sent) - len(got) <= 1
    assert len(got) > 10
    assert got == sent[: len(got)]
    for task in tasks:
        if not task.blocked:
            task.remove()
        task.kill()


# ---- nested ----------------------------------------------------------------------------------------------------------


def test_interrupt_wakes_the_outermost_run_with_a_timeout() -> None:
    steps: list[str] = []
    counter = Counter()

    def runner(name: str, timeout: int) -> None:
        victim = stackless.run(timeout)
        steps.append(f"{name} {victim is busy}")

    # Main waits without a timeout; of the two with one, the first is woken, and its timeout counts.
    stackless.tasklet(runner)("first", 1000)
    second = stackless.tasklet(runner)("second", 10)
    busy = stackless.tasklet(counter.loop)()
    stackless.tasklet(lambda: None)()
    stackless.run()
    assert steps == ["first True", "second False"]
    assert 1000 / 100 < counter.rounds < 1000 / 3
    assert not second.alive
    busy.kill()


@pytest.mark.parametrize("soft", [False, True])
def test_list_of_watchdogs_names_whom_an_interrupt_wakes(soft: bool) -> None:
    seen: list[list[object]] = []
    counter = Counter()

    def worker() -> None:
        seen.append(watchdogs())
        deeper.insert()
        counter.loop(1000)
        stackless.schedule()
        seen.append(watchdogs())

    def outer() -> None:
        victims.append(stackless.run(2000, soft=soft))

    victims: list[object] = []
    first = stackless.tasklet(outer)()
    deeper = stackless.tasklet(stackless.run)()
    last = stackless.tasklet(worker)()
    stackless.run()
    assert seen[0] == [first, stackless.main, first, deeper]
    assert victims == [None if soft else last]
    assert watchdogs() == [None]
    if not soft:
        last.insert()
    stackless.run()
    assert counter.rounds == 1000
    assert seen[1] == [None, stackless.main]


def test_tasklet_that_runs_others_with_a_timeout_is_the_one_that_goes_on() -> None:
    counter, steps = Counter(), []

    def runner() -> None:
        victim = stackless.run(1000, totaltimeout=True)
        steps.append(victim in tasks)
        counter.stopped = True
        victim.insert()

    tasks = [stackless.tasklet(counter.yielding_loop)() for _ in range(2)]
    stackless.tasklet(runner)()
    stackless.run()
    assert steps == [True]
    assert not any(task.alive for task in tasks)
