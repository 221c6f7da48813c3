"""Run random programs and look at what the garbage collector sees of them, for test_garbage_accounts.py.

The accounts: for each object, how many references the collector finds when it asks every container
(`gc.get_referents`), against how many the object has (`sys.getrefcount`). More found than there are, and objects in use
would be freed; fewer, and garbage would be missed. What a program that has parked refers to is known to nobody but its
tasklet.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import types
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import lissom
from random_programs import Mark, program, resume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TraceFunction

    Body = Callable[[lissom.channel], object]

# A program that parks more often is killed.
MOST_PARKS = 40
# From 3.14 on a running generator shows also what its frame has only borrowed.
UNRELIABLE: tuple[type, ...] = (types.GeneratorType, types.CoroutineType) if sys.version_info >= (3, 14) else ()


def references_of_a_listed_object() -> int:
    """What `sys.getrefcount` says of an object that only a list knows, in a loop over the list."""
    listed = [Mark()]
    count = 0
    for item in listed:
        count = sys.getrefcount(item)
    return count


LISTED = references_of_a_listed_object()


def count_found(containers: list[object]) -> Counter[int]:
    """Count the references that the collector finds, by the address of what they refer to."""
    found: Counter[int] = Counter()
    for container in containers:
        if not isinstance(container, UNRELIABLE):
            found.update(map(id, gc.get_referents(container)))
    return found


def accounts() -> Iterator[tuple[type, int, int]]:
    """Yield the type of each object made since `gc.freeze`, how many references are found, and how many there are."""
    objects = gc.get_objects()
    found = count_found(objects)
    for thing in objects:
        yield type(thing), found[id(thing)], sys.getrefcount(thing) - LISTED


def check(tasklet: lissom.tasklet, complete: bool) -> list[str]:
    """Say what is wrong with the accounts while the tasklet is parked."""
    wrong = []
    for kind, found, there in accounts():
        if found > there or (complete and kind is Mark and found < there):
            wrong.append(f"{kind.__name__}: found {found} of {there} references at {place(tasklet)}")
    return wrong


def place(tasklet: lissom.tasklet) -> str:
    """Say where a parked tasklet is."""
    frame = tasklet.frame
    assert frame is not None
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"


def start(body: Body) -> lissom.tasklet:
    """Start a program on a channel that nobody else knows."""
    tasklet = lissom.spawn(body, lissom.channel())
    lissom.schedule()
    return tasklet


def finish(tasklet: lissom.tasklet) -> None:
    while tasklet.alive:
        tasklet.kill()
    lissom.join(tasklet)


def keep_accounts(body: Body, complete: bool) -> tuple[int, list[str]]:
    """Check the accounts at every park of a program."""
    gc.collect()
    gc.freeze()
    tasklet = start(body)
    parks, wrong = 0, []
    while tasklet.alive and parks < MOST_PARKS:
        wrong += check(tasklet, complete)
        resume(tasklet)
        lissom.schedule()
        parks += 1
    finish(tasklet)
    gc.unfreeze()
    return parks, wrong


def abandon(body: Body, rng: random.Random) -> tuple[int, list[str]]:
    """Forget a program at one of its parks; it must be found to be garbage, with all that it refers to."""
    tasklet = start(body)
    parks = 0
    while tasklet.alive and parks < MOST_PARKS and rng.random() < 0.8:
        resume(tasklet)
        lissom.schedule()
        parks += 1
    if not tasklet.alive:
        lissom.join(tasklet)
        return parks, []
    where = place(tasklet)
    reference, known = weakref.ref(tasklet), gc.garbage[:]
    del tasklet
    for _ in range(3):
        gc.collect()
    marks = sum(type(thing) is Mark for thing in gc.get_objects())
    survivor = reference()
    if survivor is None and not marks and gc.garbage == known:
        return parks, []
    if survivor is not None:
        finish(survivor)
    return parks, [f"{marks} marks are left of what was forgotten at {where}"]


def trail(body: Body) -> list[str]:
    """Return where a program has parked; finalisers, which may be called by the collector, do not count."""
    tasklet = start(body)
    places: list[str] = []
    while tasklet.alive and len(places) < MOST_PARKS:
        where = place(tasklet)
        if "__del__" not in where:
            places.append(where)
        resume(tasklet)
        lissom.schedule()
    finish(tasklet)
    return places


def collect_always(seed: int, through_c: bool) -> tuple[int, list[str]]:
    """Run a program with the collector running all the time, and compare with a run without."""
    gc.disable()
    expected = trail(program(seed, through_c=through_c))
    gc.enable()
    gc.set_threshold(1, 1, 1)
    found = trail(program(seed, through_c=through_c))
    gc.set_threshold(700, 10, 10)
    return len(found), [] if found == expected else [f"program {seed} took another way: {found}, not {expected}"]


class Parker:
    """A trace, profile or monitoring function that pauses the tasklet at every so many events."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.events = 0

    def __call__(self, *_: object) -> None:
        self.events += 1
        if self.events % self.every == 0 and not lissom.getcurrent().is_main:
            lissom.schedule_remove()

    def trace(self, frame: types.FrameType, event: str, argument: Any) -> TraceFunction:
        frame.f_trace_opcodes = True
        self()
        return self.trace


def watched(body: Body, how: str | None) -> Body:
    """Have a program traced or profiled by a function that parks."""

    def run(channel: lissom.channel) -> None:
        if how == "traced":
            sys.settrace(Parker(17).trace)
        elif how == "profiled":
            sys.setprofile(Parker(7))
        body(channel)

    return run


def monitor() -> None:
    """Park in callbacks of `sys.monitoring`, at instructions, jumps, exceptions."""
    monitoring = sys.monitoring
    monitoring.use_tool_id(3, "accounts")
    events = [getattr(monitoring.events, name) for name in ("LINE", "INSTRUCTION", "CALL", "PY_START", "JUMP")]
    parker = Parker(13)
    for event in events:
        monitoring.register_callback(3, event, parker)
    monitoring.set_events(3, sum(events))


def main() -> None:
    """Print how often the programs have parked, and what was wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["accounts", "abandoned", "stress"])
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--through-c", action="store_true")
    parser.add_argument("--watched", choices=["traced", "profiled", "monitored"])
    arguments = parser.parse_args()
    if arguments.watched == "monitored":
        monitor()
    if arguments.what != "stress":
        gc.disable()
    complete = not arguments.through_c and arguments.watched is None
    rng = random.Random(arguments.first)
    parks = 0
    for seed in range(arguments.first, arguments.last):
        if arguments.what == "stress":
            count, wrong = collect_always(seed, arguments.through_c)
        else:
            body = watched(program(seed, through_c=arguments.through_c), arguments.watched)
            count, wrong = keep_accounts(body, complete) if arguments.what == "accounts" else abandon(body, rng)
            del body
        parks += count
        for line in wrong:
            print(f"program {seed}: {line}")
    print(f"{parks} parks")


if __name__ == "__main__":
    main()
