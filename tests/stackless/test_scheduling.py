"""The queue: who runs after whom, to the switch, and what the switching calls return.

The queue is a ring; the running tasklet is its head, and its end is the place just before the running tasklet.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing() -> None:
    """Do nothing."""


class Order(list[str]):
    """The order in which tasklets ran. `make("abc")` queues one tasklet for each letter."""

    def make(self, names: str, rounds: int = 1) -> list[stackless.tasklet]:
        return [stackless.tasklet(self.work)(name, rounds) for name in names]

    def work(self, name: str, rounds: int) -> None:
        for turn in range(rounds):
            if turn:
                stackless.schedule()
            self.append(name)

    def text(self) -> str:
        """Return the names so far, and forget them."""
        names = "".join(self)
        self.clear()
        return names


@pytest.fixture
def order() -> Order:
    return Order()


def ring() -> list[stackless.tasklet]:
    """Return the queue, beginning with the running tasklet, and check that its links agree."""
    found, task = [stackless.current], stackless.current.next
    while task is not stackless.current:
        assert task is not None
        assert task.prev is found[-1]
        found.append(task)
        task = task.next
    assert len(found) == stackless.runcount
    return found


# ---- schedule --------------------------------------------------------------------------------------------------------


def test_schedule_runs_the_others_once_each_in_order(order: Order) -> None:
    order.make("abc", rounds=2)
    stackless.schedule()
    assert (order.text(), stackless.runcount) == ("abc", 4)
    stackless.schedule()
    assert (order.text(), stackless.runcount) == ("abc", 1)
    stackless.schedule()
    assert order.text() == ""


def test_schedule_returns_its_argument_or_the_current_tasklet() -> None:
    value = object()
    assert stackless.schedule() is stackless.current
    assert stackless.schedule(value) is value
    assert stackless.schedule(None) is None
    stackless.tasklet(nothing)()
    assert stackless.schedule(value) is value
    stackless.tasklet(nothing)()
    assert stackless.schedule() is stackless.current


def test_value_of_schedule_is_tempval_while_it_waits_and_can_be_changed() -> None:
    seen: list[object] = []

    def change(other: stackless.tasklet) -> None:
        seen.append(other.tempval)
        other.tempval = "changed"

    stackless.tasklet(change)(stackless.current)
    assert stackless.schedule("given") == "changed"
    assert seen == ["given"]
    assert stackless.current.tempval is None


def test_tasklets_made_meanwhile_come_after_the_waiting_main(order: Order) -> None:
    def work() -> None:
        order.append("x")
        order.make("yz")

    stackless.tasklet(work)()
    stackless.schedule()
    assert order.text() == "x"
    stackless.schedule()
    assert order.text() == "yz"


def test_schedule_remove_leaves_the_queue(order: Order) -> None:
    def work() -> None:
        order.append("x")
        result.append(stackless.schedule_remove("value"))
        order.append("X")

    result: list[object] = []
    task = stackless.tasklet(work)()
    order.make("a", rounds=2)
    stackless.schedule()
    assert (order.text(), task.paused, task.tempval, stackless.runcount) == ("xa", True, "value", 2)
    stackless.run()
    assert order.text() == "a"
    task.insert()
    stackless.run()
    assert (order.text(), result) == ("X", ["value"])


def test_schedule_remove_returns_the_current_tasklet_by_default() -> None:
    result: list[object] = []
    task = stackless.tasklet(lambda: result.append(stackless.schedule_remove()))()
    stackless.run()
    task.run()
    assert result == [task]


def test_main_removed_from_the_queue_goes_on_when_it_is_inserted(order: Order) -> None:
    main = stackless.current

    def work() -> None:
        assert main.paused
        main.insert()
        assert main.scheduled
        order.append("x")

    stackless.tasklet(work)()
    order.make("ab")
    assert stackless.schedule_remove() is main
    assert order.text() == "xab"


def test_main_removed_from_the_queue_goes_on_when_nobody_else_can_run(order: Order) -> None:
    order.make("ab")
    assert stackless.schedule_remove("back") == "back"
    assert order.text() == "ab"
    paused = stackless.tasklet(stackless.schedule_remove)()
    assert stackless.schedule_remove("back") == "back"
    assert paused.paused
    channel = stackless.channel()
    blocked = stackless.tasklet(channel.receive)()
    assert stackless.schedule_remove("back") == "back"
    assert blocked.blocked
    blocked.kill()
    paused.kill()


def test_main_alone_cannot_leave_the_queue() -> None:
    assert stackless.schedule_remove("back") == "back"
    assert stackless.current.scheduled
    assert stackless.runcount == 1


def test_last_reference_dropped_by_schedule_remove_ends_the_tasklet() -> None:
    ends: list[str] = []

    def work() -> None:
        try:
            stackless.schedule_remove(None)
        finally:
            ends.append("ended")

    reference = weakref.ref(stackless.tasklet(work)())
    stackless.run()
    assert (ends, reference()) == (["ended"], None)


# ---- tasklet.run -----------------------------------------------------------------------------------------------------


def test_run_of_a_paused_tasklet_runs_it_alone(order: Order) -> None:
    order.make("ab")
    stackless.tasklet(order.work).bind(None, ("t", 2)).run()
    assert order.text() == "t"
    stackless.run()
    assert order.text() == "abt"


@pytest.mark.parametrize(("index", "first", "rest"), [(0, "abc", ""), (1, "bc", "a"), (2, "c", "ab")])
def test_run_of_a_queued_tasklet_keeps_its_place(order: Order, index: int, first: str, rest: str) -> None:
    order.make("abc")[index].run()
    assert order.text() == first
    stackless.run()
    assert order.text() == rest


def test_run_keeps_the_caller_in_the_queue(order: Order) -> None:
    tasks = order.make("abc", rounds=2)
    tasks[1].run()
    assert order.text() == "bc"
    assert ring() == [stackless.current, tasks[0], tasks[1], tasks[2]]
    stackless.run()
    assert order.text() == "abca"


def test_run_from_a_tasklet_goes_on_in_the_ring(order: Order) -> None:
    def work() -> None:
        order.append("x")
        tasks[-1].run()
        order.append("X")

    stackless.tasklet(work)()
    tasks = order.make("abc")
    stackless.schedule()
    assert order.text() == "xc"
    stackless.schedule()
    assert order.text() == "Xab"


@pytest.mark.parametrize("step", ["run", "switch"])
def test_run_and_switch_return_tempval_of_the_caller(step: str) -> None:
    value = object()
    stackless.current.tempval = value
    assert getattr(stackless.tasklet(nothing)(), step)() is value
    assert stackless.current.tempval is None
    assert getattr(stackless.tasklet(nothing)(), step)() is None
    main = stackless.current
    assert getattr(stackless.tasklet(setattr)(main, "tempval", "set by it"), step)() == "set by it"


@pytest.mark.parametrize("step", ["run", "switch"])
def test_run_and_switch_to_the_current_tasklet_do_nothing(order: Order, step: str) -> None:
    order.make("ab")
    value = stackless.current.tempval = object()
    assert getattr(stackless.current, step)() is value
    assert getattr(stackless.current, step)() is None
    assert (order.text(), stackless.runcount) == ("", 3)
    stackless.run()
    assert order.text() == "ab"


# ---- switch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepare", ["insert", "remove"])
def test_switch_pauses_the_caller(prepare: str) -> None:
    main, seen = stackless.current, []

    def work() -> None:
        seen.append((main.paused, main.scheduled, stackless.runcount))
        main.insert()

    task = stackless.tasklet(work)()
    getattr(task, prepare)()
    task.switch()
    assert seen == [(True, False, 1)]
    assert not task.alive


def test_switch_to_a_queued_tasklet_keeps_its_place(order: Order) -> None:
    tasks = order.make("abc")
    stackless.tasklet(lambda: order.append("x") or main.insert())()
    main = stackless.current
    tasks[1].switch()
    assert order.text() == "bcxa"


def test_main_goes_on_after_switch_when_nobody_else_can_run(order: Order) -> None:
    order.make("ab")[1].switch()
    assert order.text() == "ba"


def test_switch_back_and_forth() -> None:
    steps: list[str] = []

    def work(partner: stackless.tasklet) -> None:
        for _ in range(2):
            steps.append("work")
            partner.switch()

    task = stackless.tasklet(work)(stackless.current)
    for _ in range(2):
        task.switch()
        steps.append("main")
    assert steps == ["work", "main", "work", "main"]
    assert task.paused
    task.run()
    assert not task.alive


# ---- insert and remove -----------------------------------------------------------------------------------------------


def test_insert_goes_to_the_end(order: Order) -> None:
    first = order.make("a")[0].remove()
    order.make("bc")
    first.insert()
    stackless.run()
    assert order.text() == "bca"


def test_insert_of_a_queued_tasklet_does_not_move_it(order: Order) -> None:
    tasks = order.make("abc")
    tasks[0].insert()
    stackless.run()
    assert order.text() == "abc"


@pytest.mark.parametrize("index", range(3))
def test_remove_closes_the_gap(order: Order, index: int) -> None:
    tasks = order.make("abc")
    removed = tasks.pop(index).remove()
    assert ring() == [stackless.current, *tasks]
    assert (removed.next, removed.prev) == (None, None)
    stackless.run()
    assert order.text() == "abc".replace("abc"[index], "")


def test_tasklet_removed_by_another_does_not_run(order: Order) -> None:
    stackless.tasklet(lambda: tasks[0].remove())()
    tasks = order.make("ab")
    stackless.run()
    assert order.text() == "b"


# ---- next, prev ------------------------------------------------------------------------------------------------------


def test_next_and_prev_are_the_ring(order: Order) -> None:
    main = stackless.current
    assert main.next is main.prev is main
    tasks = order.make("abc")
    assert ring() == [main, *tasks]
    assert main.prev is tasks[2]
    stackless.run()


def test_next_and_prev_of_waiters_walk_the_channel() -> None:
    channel = stackless.channel()
    tasks = [stackless.tasklet(channel.receive)() for _ in range(3)]
    stackless.run()
    assert [task.next for task in tasks] == [tasks[1], tasks[2], None]
    assert [task.prev for task in tasks] == [None, tasks[0], tasks[1]]
    assert all(task._channel is channel for task in tasks)
    for task in tasks:
        task.kill()
    assert (tasks[0].next, tasks[0]._channel) == (None, None)


def test_ring_turns_with_the_running_tasklet(order: Order) -> None:
    seen: list[list[stackless.tasklet]] = []

    def look() -> None:
        seen.append(ring())

    tasks = [*order.make("a"), stackless.tasklet(look)(), *order.make("b")]
    main = stackless.current
    stackless.schedule()
    assert seen == [[tasks[1], tasks[2], main]]


def make_pausing(steps: list[str]) -> Callable[[str], None]:
    """Return a function that notes its name before and after it leaves the queue."""

    def work(name: str) -> None:
        steps.append(name)
        stackless.schedule_remove()
        steps.append(name.upper())

    return work


def test_paused_tasklets_are_run_in_any_order() -> None:
    steps: list[str] = []
    work = make_pausing(steps)
    tasks = [stackless.tasklet(work)(name) for name in "abc"]
    stackless.run()
    for task in reversed(tasks):
        task.run()
    assert "".join(steps) == "abcCBA"
