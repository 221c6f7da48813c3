"""The garbage collector sees what parked tasklets refer to, and ends those that only their own frames keep alive."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script


class Token:
    """Something that can be referred to weakly."""


def parked(work: Callable[..., object], *arguments: object) -> weakref.ref[lissom.tasklet]:
    """Start a tasklet that parks, and return nothing that keeps it alive."""
    tasklet = lissom.tasklet(work)(*arguments)
    tasklet.run()
    assert tasklet.paused or tasklet.blocked
    return weakref.ref(tasklet)


def assert_collected(tasklet: weakref.ref[lissom.tasklet], ended: list[str]) -> None:
    lissom.run()
    assert not ended, "nothing may end it before the collector looks"
    gc.collect()
    gc.collect()  # what was finalised is freed by the next collection at the latest
    assert ended == ["finally"]
    assert tasklet() is None


def test_paused_tasklet_that_knows_itself_is_collected() -> None:
    ended: list[str] = []

    def work() -> None:
        mine = lissom.getcurrent()
        try:
            lissom.schedule_remove()
        finally:
            ended.append("finally" if mine else "")

    assert_collected(parked(work), ended)


def test_channel_in_a_local_variable_is_collected() -> None:
    ended: list[str] = []

    def work() -> None:
        channel = lissom.channel()
        try:
            channel.receive()
        finally:
            ended.append("finally")

    assert_collected(parked(work), ended)


def test_channel_on_the_value_stack_only_is_collected() -> None:
    ended: list[str] = []

    def work() -> None:
        try:
            [1, Token(), (2, lissom.channel().receive())]
        finally:
            ended.append("finally")

    assert_collected(parked(work), ended)


def test_channel_among_the_arguments_is_collected() -> None:
    ended: list[str] = []

    def work(first: int, channel: lissom.channel) -> None:
        try:
            channel.send(first)
        finally:
            ended.append("finally")

    assert_collected(parked(work, 1, lissom.channel()), ended)


def test_channel_of_a_caller_is_collected() -> None:
    ended: list[str] = []

    def inner(channel: lissom.channel) -> list[object]:
        return [channel.receive()]

    def work() -> None:
        try:
            inner(lissom.channel())
        finally:
            ended.append("finally")

    assert_collected(parked(work), ended)


def test_channel_that_is_iterated_is_collected() -> None:
    ended: list[str] = []

    def work() -> None:
        try:
            for _ in lissom.channel():
                pass
        finally:
            ended.append("finally")

    assert_collected(parked(work), ended)


def test_exception_that_is_handled_is_seen() -> None:
    ended: list[str] = []

    def work() -> None:
        channel = lissom.channel()
        try:
            raise LookupError(channel)
        except LookupError as error:
            try:
                error.args[0].receive()
            finally:
                ended.append("finally")

    assert_collected(parked(work), ended)


def test_two_tasklets_that_only_know_each_other_are_collected() -> None:
    ended: list[str] = []

    def work(other: list[lissom.tasklet]) -> None:
        try:
            lissom.schedule_remove()
        finally:
            ended.append(f"finally {len(other)}")

    def make() -> list[weakref.ref[lissom.tasklet]]:
        known: list[lissom.tasklet] = []
        known.extend(lissom.tasklet(work)(known) for _ in range(2))
        lissom.schedule()
        return [weakref.ref(tasklet) for tasklet in known]

    tasklets = make()
    gc.collect()
    gc.collect()
    assert ended == ["finally 2"] * 2
    assert [tasklet() for tasklet in tasklets] == [None, None]


def test_what_somebody_else_knows_is_left_alone() -> None:
    ended: list[str] = []
    channel = lissom.channel()

    def work() -> None:
        token = Token()
        try:
            ended.append(str(channel.receive()))
        finally:
            ended.append("finally" if token else "")

    tasklet = parked(work)
    gc.collect()
    assert not ended
    assert tasklet() is not None
    channel.send("received")
    assert ended == ["received", "finally"]


def test_collector_sees_the_local_variables_of_a_parked_tasklet() -> None:
    token = Token()

    def work(mine: Token) -> None:
        lissom.schedule_remove()
        assert mine

    tasklet = lissom.tasklet(work)(token)
    tasklet.run()
    assert any(item is token for item in gc.get_referents(tasklet))
    tasklet.kill()


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    gc.collect()
    del gc.garbage[:]
    yield gc.garbage
    del gc.garbage[:]


def test_tasklet_that_survives_every_kill_goes_to_the_garbage_list(garbage: list[object]) -> None:
    attempts: list[int] = []

    def work(give_up: list[bool]) -> None:
        mine = lissom.getcurrent()
        while not give_up:
            try:
                lissom.schedule_remove()
            except TaskletExit:  # type: ignore[name-defined]  # noqa: F821 - a builtin, as in Stackless
                attempts.append(mine.alive)

    give_up: list[bool] = []
    parked(work, give_up)
    gc.collect()
    assert len(attempts) == 10
    (survivor,) = garbage
    give_up.append(True)
    survivor.run()  # type: ignore[attr-defined]
    assert not survivor.alive  # type: ignore[attr-defined]


def test_finaliser_under_a_switch_trap_is_made_up_for_later() -> None:
    import stackless

    ended: list[str] = []

    def work() -> None:
        mine = lissom.getcurrent()
        try:
            lissom.schedule_remove()
        finally:
            ended.append("finally" if mine else "")

    parked(work)
    stackless.switch_trap(1)
    try:
        gc.collect()
        assert not ended
    finally:
        stackless.switch_trap(-1)
    lissom.run()
    assert ended == ["finally"]


def test_ten_thousand_tasklets_killed_in_every_state_leave_nothing() -> None:
    def work(how: int, channel: lissom.channel) -> None:
        mine = lissom.getcurrent()
        if how == 0:
            lissom.schedule_remove()
        elif how == 1:
            channel.receive()
        elif how == 2:
            lissom.sleep(1000)
        else:
            lissom.schedule()
        assert mine

    def round_of(count: int) -> None:
        tasklets = [lissom.tasklet(work)(number % 5, lissom.channel()) for number in range(count)]
        if count > 1:
            tasklets[0].remove()  # one that never starts
            lissom.schedule()
        for tasklet in tasklets:
            tasklet.kill()

    round_of(1000)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(10):
        round_of(1000)
    gc.collect()
    assert sys.getallocatedblocks() - before < 200


# Functions that park in all kinds of positions, with objects in variables and on the value stack.
SHAPES = """
import gc, random, sys, lissom

class Box:
    def __init__(self, *items): self.items = list(items); self.me = self
    def __enter__(self): return self
    def __exit__(self, *exc): return False
    def __call__(self, *args, **kwargs): return (self, args, kwargs)
    def __add__(self, other): return Box(self, other)
    def __getitem__(self, key): return (self, key)

def plain(ch): return ch.receive()
def deep(ch): return [Box(), (Box(1), {"k": Box(), "v": ch.receive()}), Box()]
def star(ch): return Box()(*[Box(), Box()], **{"a": ch.receive()})
def starred(ch): return (lambda *a, **k: ch.receive())(*(Box(), 1), k=Box())
def method(ch): return Box(Box()).items[0](Box(), ch.receive(), x=Box())
def loop(ch):
    for box in [Box(), Box()]:
        for key in {"a": box}:
            box = (box, key, ch.receive())
    return box
def comprehension(ch): return [Box(x, ch.receive()) for x in (1, 2)]
def generator(ch): return list(Box(x, ch.receive()) for x in (1, 2))
def handled(ch):
    try:
        raise ValueError(Box())
    except ValueError as error:
        return (error, Box(), ch.receive())
def finally_(ch):
    try:
        return Box()
    finally:
        ch.receive()
def with_(ch):
    with Box() as box, Box():
        return box + Box(ch.receive())
def closure(ch):
    box = Box()
    def inner(): return (box, ch.receive())
    return inner()
def sorting(ch): return sorted([3, 1, 2], key=lambda x: (ch.receive(), x)[1])
def matching(ch):
    match [Box(), 2]:
        case [box, 2]: return (box, ch.receive())
def subscript(ch): return Box()[Box():ch.receive()]
def fstring(ch): return f"{Box()!r:.3} {ch.receive()!r:.3}"
def classes(ch):
    class Inner(Box):
        value = ch.receive()
    return Inner
def iterating(ch):
    boxes = Box()
    for item in ch:
        return (item, boxes)
def chained(ch): return 1 < 2 < (Box(), 3, ch.receive())[1]
def recursive(ch, n=5): return (Box(), recursive(ch, n - 1)) if n else (Box(), ch.receive())
def sequence(ch): return (Box(), ch.send_sequence(iter([1])), Box())
SHAPES = [v for k, v in list(globals().items()) if callable(v) and k != "Box"]
"""


def test_collecting_at_every_switch_frees_nothing_in_use(script: Script) -> None:
    done = script(
        SHAPES
        + """
gc.set_threshold(1)
rng = random.Random(1)
for turn in range(60):
    parked = []
    for shape in rng.sample(SHAPES, len(SHAPES)):
        ch = lissom.channel()
        t = lissom.spawn(shape, ch)
        parked.append((t, ch, shape))
    lissom.schedule()
    gc.collect()
    for t, ch, shape in parked:
        if not t.alive or not t.blocked:
            continue
        # Whatever is visited is owned: nothing is visited more often than it has references.
        referents = gc.get_referents(t)
        for item in {id(r): r for r in referents}.values():
            seen = sum(1 for r in referents if r is item)
            assert sys.getrefcount(item) >= seen, (shape, item)
    rng.shuffle(parked)
    for t, ch, shape in parked[:12]:
        while t.alive and t.blocked:
            if ch.balance < 0:
                ch.send(Box())
            else:
                ch.receive()
            gc.collect(0)
        lissom.join(t)
    del parked, t, ch
    gc.collect()
print("fine")
""",
        "-X",
        "dev",
    )
    assert done.stdout.strip() == "fine", done.stderr[-3000:]
