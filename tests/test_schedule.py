"""Who runs when: `schedule`, `schedule_remove`, `run`, and blocking calls in the main tasklet."""

from __future__ import annotations

import threading

import lissom
import pytest


def trace(order: list[str], name: str, steps: int) -> None:
    """Note each step and yield after it."""
    for step in range(steps):
        order.append(f"{name}{step}")
        lissom.schedule()


def test_schedule_takes_turns() -> None:
    order: list[str] = []
    for name in "ab":
        lissom.spawn(trace, order, name, 2)
    for step in range(3):
        order.append(f"m{step}")
        lissom.schedule()
    assert order == ["m0", "a0", "b0", "m1", "a1", "b1", "m2"]
    lissom.run()


def test_schedule_returns_the_current_tasklet_or_the_given_value() -> None:
    assert lissom.schedule() is lissom.getcurrent()
    assert lissom.schedule("value") == "value"
    assert lissom.schedule(retval=None) is None


def test_schedule_alone_returns_at_once() -> None:
    assert lissom.getruncount() == 1
    lissom.schedule()


def test_getruncount_counts_those_that_can_run() -> None:
    channel = lissom.channel()
    blocked = lissom.spawn(channel.receive)
    lissom.schedule()
    assert lissom.getruncount() == 1
    lissom.spawn(int)
    lissom.spawn(int)
    assert lissom.getruncount() == 3
    lissom.run()
    assert lissom.getruncount() == 1
    blocked.kill()


def test_schedule_remove_returns_after_insert_with_the_given_value() -> None:
    tasklet = lissom.spawn(lissom.schedule_remove, "back")
    lissom.schedule()
    assert tasklet.paused
    tasklet.insert()
    assert lissom.join(tasklet) == "back"


def test_run_returns_when_all_others_have_ended() -> None:
    order: list[str] = []
    for name in "ab":
        lissom.spawn(trace, order, name, 3)
    lissom.run()
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert lissom.getruncount() == 1


def test_run_without_others_returns_at_once() -> None:
    lissom.run()


def test_run_returns_although_tasklets_are_blocked_or_paused() -> None:
    channel = lissom.channel()
    blocked, paused = lissom.spawn(channel.receive), lissom.spawn(lissom.schedule_remove)
    lissom.run()
    assert blocked.blocked
    assert paused.paused
    blocked.kill()
    paused.kill()


def test_run_waits_for_those_that_wait_for_time() -> None:
    sleeper = lissom.spawn(lissom.sleep, 0.02)
    lissom.run()
    assert not sleeper.alive


def test_run_waits_for_those_that_wait_for_a_real_thread() -> None:
    release = threading.Event()
    waiter = lissom.spawn(lissom.offload, release.wait, 30)
    lissom.spawn(release.set)
    lissom.run()
    assert not waiter.alive


def test_run_does_not_wait_for_those_that_wait_for_each_other() -> None:
    first = lissom.spawn(lambda: lissom.join(second))
    second = lissom.spawn(lambda: lissom.join(first))
    lissom.run()
    assert (first.waits_for or "").startswith("the end of the tasklet")
    first.kill()
    lissom.run()
    assert not second.alive


def test_run_may_be_called_in_a_tasklet() -> None:
    order: list[str] = []

    def runner() -> None:
        lissom.spawn(trace, order, "x", 2)
        lissom.run()
        order.append("run returned")

    lissom.join(lissom.spawn(runner))
    assert order == ["x0", "x1", "run returned"]


def test_run_is_left_by_an_exception_thrown_into_its_caller() -> None:
    def runner() -> str:
        try:
            lissom.run()
        except LookupError:
            return "left"
        return "returned"

    sleeper = lissom.spawn(lissom.sleep, 60)
    tasklet = lissom.spawn(runner)
    lissom.schedule()
    tasklet.throw(LookupError)
    assert lissom.join(tasklet) == "left"
    sleeper.kill()


def test_blocking_call_in_the_main_tasklet_lets_the_others_run() -> None:
    order: list[str] = []
    lissom.spawn(trace, order, "a", 3)
    lissom.sleep(0.001)
    assert order == ["a0", "a1", "a2"]


def test_busy_yielding_tasklets_do_not_starve_timers() -> None:
    done: list[bool] = []

    def spin() -> int:
        rounds = 0
        while not done:
            rounds += 1
            lissom.schedule()
        return rounds

    spinners = [lissom.spawn(spin) for _ in range(3)]
    lissom.sleep(0.01)
    done.append(True)
    assert all(lissom.join(spinner) > 1 for spinner in spinners)


def test_every_thread_has_a_scheduler_and_a_main_tasklet_of_its_own() -> None:
    found = {}

    def thread() -> None:
        found["main"] = lissom.getmain()
        found["result"] = lissom.join(lissom.spawn(lambda: (lissom.sleep(0.001), lissom.getmain())[1]))

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    assert found["main"] is found["result"] is not lissom.getmain()


def test_channel_carries_values_between_threads() -> None:
    numbers, answers = lissom.channel(), lissom.channel()

    def thread() -> None:
        for _ in range(100):
            answers.send(numbers.receive() * 2)

    worker = threading.Thread(target=thread)
    worker.start()
    received = []
    for number in range(100):
        numbers.send(number)
        received.append(answers.receive())
    worker.join()
    assert received == list(range(0, 200, 2))


def test_join_of_a_tasklet_of_another_thread_waits_for_it() -> None:
    box = []
    ready, go = threading.Event(), lissom.channel()

    def thread() -> None:
        box.append(lissom.spawn(lambda: go.receive() + 1))
        ready.set()
        lissom.join(box[0])

    worker = threading.Thread(target=thread)
    worker.start()
    ready.wait()
    go.send(1)
    assert lissom.join(box[0]) == 2
    worker.join()


def test_tasklets_of_a_thread_are_ended_with_it() -> None:
    ended = []

    def waiter() -> None:
        try:
            lissom.schedule_remove()
        finally:
            ended.append(threading.get_ident())

    kept = []

    def thread() -> None:
        kept.append(lissom.spawn(waiter))
        lissom.schedule()

    worker = threading.Thread(target=thread)
    worker.start()
    ident = worker.ident
    worker.join()
    assert ended == [ident]
    assert not kept[0].alive
    assert "dead" in repr(kept[0])


def test_tasklet_never_started_outlives_its_thread_and_cannot_run() -> None:
    kept = []
    worker = threading.Thread(target=lambda: kept.append(lissom.tasklet(int, ())))
    worker.start()
    worker.join()
    (tasklet,) = kept
    assert not tasklet.scheduled
    for action in (tasklet.run, tasklet.insert):
        with pytest.raises(RuntimeError):
            action()
    tasklet.kill()
