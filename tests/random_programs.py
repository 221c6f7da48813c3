"""Random functions that park in the middle of everything, for test_garbage_accounts.py.

A function made by `program` holds `Mark` objects in local variables, on its value stack, in containers, cells,
generators and exceptions, and blocks again and again on the channel that it is given: in calls, loops, comprehensions,
`with` and `try`, in methods that operators call, in finalisers. Every way through it ends.
"""

from __future__ import annotations

import contextlib
import functools
import random
import types
from typing import TYPE_CHECKING, Any

import lissom

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


class Mark:
    """Something to be counted. What is done with it does nothing, or blocks."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def method(self, *parts: object, **named: object) -> object:
        return parts or named

    def __enter__(self) -> Mark:
        return Mark()

    def __exit__(self, *_: object) -> None:
        pass


class Gate(Mark):
    """Blocks in every operation that the interpreter makes by calling a method."""

    def __init__(self, channel: lissom.channel) -> None:
        super().__init__()
        self.channel = channel

    def block(self, *_: object) -> Mark:
        return Mark(self.channel.receive())

    __add__ = __radd__ = __matmul__ = __getitem__ = __neg__ = __enter__ = block

    def __getattr__(self, name: str) -> Mark:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.block()

    def __contains__(self, item: object) -> bool:
        return self.block(item) is not None

    def __setitem__(self, key: object, value: object) -> None:
        self.block()

    def __lt__(self, other: object) -> bool:
        return self.block() is not None

    def __bool__(self) -> bool:
        return self.block() is not None

    def __format__(self, spec: str) -> str:
        return str(len(self.block().parts))

    def __iter__(self) -> Iterator[Mark]:
        yield self.block()
        yield Mark()

    def __exit__(self, *_: object) -> None:
        self.block()

    def __hash__(self) -> int:
        self.block()
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


class Dropped(Mark):
    """Blocks when it is dropped."""

    def __init__(self, channel: lissom.channel) -> None:
        super().__init__()
        self.channel = channel

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.channel.receive()


class Failure(Exception):
    """What programs raise."""


def same(*parts: object, **named: object) -> object:
    return (parts, named)


def fail(*parts: object) -> None:
    raise Failure(*parts)


def drive(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError


def decorated(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def call(*parts: object) -> object:
        return function(*parts)

    return call


NAMES = {
    "Mark": Mark,
    "Gate": Gate,
    "Dropped": Dropped,
    "Failure": Failure,
    "same": same,
    "fail": fail,
    "drive": drive,
    "decorated": decorated,
    "partial": functools.partial,
    "MethodType": types.MethodType,
    "pause": lissom.schedule_remove,
    "channel": lissom.channel,
}

# {0}, {1}, {2} are expressions, {n} and {m} new names, {v} a name that exists, {w} something to be entered; B is a
# block. What stands in the first list of each kind leads from one Python function to the next, with no C code between.
EXPRESSIONS = [
    "Mark()",
    "Mark()",
    "{v}",
    "{v}",
    "({0}, {1}, {2})",
    "[{0}, *[{1}], {2}]",
    "{{'k': {0}, **{{'j': {1}}}}}",
    "{{Mark(), ({0} and 1)}}",
    "same({0}, {1}, {2})",
    "same({0}, k={1}, j={2})",
    "same(*[{0}, {1}], **{{'k': {2}}})",
    "(lambda x, y: (x, {0}, y))({1}, {2})",
    "Mark().method({0}, {1}, k={2})",
    "Mark({0}).method({1})",
    "Mark({0}, {1})",
    "partial(same, {0})({1})",
    "MethodType(same, {0})({1})",
    "({0} if {1} else {2})",
    "({0} and {1} or {2})",
    "[({n}, {0}) for {n} in ({1}, {2})]",
    "{{Mark(): {0} for {n} in [{1}]}}",
    "f'{{{v}!s:.1}} {{first!r:.1}}'",
    "(1 < ({0}, 2)[1] < 3)",
    "[{0}, {1}][len([{2}]) - 1:]",
    "isinstance(({0}, {1}), (tuple, type(None)))",
    "print({0}, {1}, sep='', end='', file=sink)",
    "({0} is not {1})",
]
EXPRESSIONS_THROUGH_C = [
    "list(({n}, {0}) for {n} in [{1}])",
    "any(False for {n} in [{0}, {1}])",
    "sorted([{0}, {1}], key=lambda {n}: ({2}, 0)[1])",
    "max([{0}], key=lambda {n}: ({1}, 0)[1])",
    "(gate + {0})",
    "gate[{0}]",
    "(-gate)",
    "gate.attribute",
    "({0} in gate)",
    "(gate < {0})",
    "(gate and {0})",
    "f'{{gate}}'",
    "[*gate, {0}]",
    "{{gate: {0}}}",
    "gate.block({0}, {1})",
    "same({0}, Dropped(ch), {1})",
    "(Dropped(ch), {0})[1]",
    "isinstance(Dropped(ch), (Mark, int))",
    "len([{0}, Dropped(ch), {1}])",
]
PARKS = [
    "ch.receive()",
    "ch.receive()",
    "ch.send({0})",
    "ch.send(({0}, {1}))",
    "ch.send_exception(Failure, {0}, {1})",
    "receive()",
    "channel.receive(ch)",
    "pause({0})",
    "pause()",
    "pause(retval={0})",
]
PARKS_THROUGH_C = [
    "ch.send_sequence([{0}])",
    "partial(ch.receive)()",
    "partial(MethodType(channel.receive, ch))()",
    "partial(ch.send)({0})",
    "partial(MethodType(channel.send, ch))({0})",
    "partial(channel.send, ch)({0})",
    "MethodType(ch.send, {0})()",
    "partial(MethodType(pause, {0}))()",
    "ch.send(*[{0}])",
    "next(ch)",
    "list(map(ch.send, [{0}]))",
]
STATEMENTS = [
    ["{n} = {0}"],
    ["{n} = {0}"],
    ["same({0}, {1})"],
    ["{n}, {m} = {0}, {1}"],
    ["{n}, *{m} = [{0}, {1}, {2}]"],
    ["{n} = {0}", "del {n}"],
    ["if {0}:", "B", "else:", "B"],
    ["for {n} in [{0}, {1}]:", "B"],
    ["for {n} in [{0}, {1}]:", "B", "    break", "else:", "B"],
    ["for {n} in ch:", "    if {0}: break", "B"],
    ["for {n} in (ch if {0} else []):", "    for {m} in ch: break", "    break"],
    ["with Mark() as {n}, {w}:", "B"],
    ["with Mark() as {n}:", "B", "    {m} = {0}"],
    ["try:", "B", "finally:", "B"],
    ["try:", "    same({0}, {1}, fail({2}))", "except Failure as error:", "B", "else:", "B"],
    [
        "try:",
        "    fail({0})",
        "except Failure:",
        "    try:",
        "        fail({1})",
        "    except Failure:",
        "        {n} = {2}",
    ],
    ["try:", "    for {n} in [{0}]:", "        same({n}, fail({1}))", "except* Failure:", "    {m} = {2}"],
    ["while {0}:", "B", "    break"],
    ["match [{0}, {1}]:", "    case [{n}, {m}] if {2}:", "        same({n}, {m})"],
    ["def {n}(x, y={0}):", "    return (x, y, {v}, ch.receive())", "same({n}({1}), {2})"],
    ["assert same({0}, {1})"],
]
STATEMENTS_THROUGH_C = [
    ["{n} = Dropped(ch)", "{n} = {0}"],
    ["{n} = {m} = Dropped(ch)", "{n}, {m} = {0}, {1}"],
    ["gate[{0}] = {1}"],
    ["for {n}, {m} in enumerate(ch):", "    break"],
    ["for {n} in zip(ch, [{0}]):", "    break"],
    ["for {n} in gate:", "B"],
    ["for {n} in ({0} for _ in [1]):", "B"],
    ["with gate as {n}:", "B"],
    ["try:", "    same({0}, Dropped(ch), [{1}], 1 // 0)", "except ZeroDivisionError:", "B"],
    ["try:", "    same({0}, Dropped(ch), fail({1}))", "except Failure:", "B"],
    ["@decorated", "def {n}(x):", "    z = x", "    return same(z, ch.receive())", "{n}({0})"],
    ["def {n}(x):", "    yield (x, ch.receive())", "    yield {0}", "{m} = [*{n}({1})]"],
    ["def {n}(x):", "    got = yield from [(x, ch.receive())]", "for {m} in {n}({0}):", "B"],
    [
        "async def {n}(x):",
        "    async def inner(): return (x, ch.receive())",
        "    return same({0}, await inner())",
        "drive({n}({1}))",
    ],
    ["class {n}(Mark):", "    x = {0}", "    y = (x, {1})"],
    ["class {n}(Mark):", "    def __init__(self, x):", "        self.x = (x, ch.receive())", "{n}({0})"],
]


class Writer:
    """Writes one function; with or without C code between its Python functions."""

    def __init__(self, seed: int, through_c: bool) -> None:
        self.random = random.Random(seed)
        self.expressions = EXPRESSIONS + EXPRESSIONS_THROUGH_C * through_c
        self.parks = PARKS + PARKS_THROUGH_C * through_c
        self.statements = STATEMENTS + STATEMENTS_THROUGH_C * through_c
        self.entered = ["Mark()", "gate"] if through_c else ["Mark()"]
        self.names = ["first"]
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def fill(self, template: str, depth: int, new: dict[str, str]) -> str:
        """Replace the places in a template."""
        if "{n}" in template and "n" not in new:
            new["n"] = self.name()
        if "{m}" in template and "m" not in new:
            new["m"] = self.name()
        parts = [self.expression(depth + 1) for _ in range(3)]
        choose = self.random.choice
        return template.format(*parts, v=choose(self.names), w=choose(self.entered), **new)

    def expression(self, depth: int) -> str:
        if self.random.random() < 0.2:
            return self.fill(self.random.choice(self.parks), depth + 2, {})
        if depth > 3:
            return self.random.choice(["Mark()", self.random.choice(self.names)])
        return self.fill(self.random.choice(self.expressions), depth, {})

    def block(self, depth: int, count: int) -> list[str]:
        """Return statements, and forget the names that may not be set behind them."""
        known = list(self.names)
        lines: list[str] = []
        for _ in range(count):
            lines += self.statement(depth)
        self.names = known
        return lines

    def statement(self, depth: int) -> list[str]:
        simple = [lines for lines in self.statements if "B" not in lines]
        template = self.random.choice(self.statements if depth < 3 else simple)
        new: dict[str, str] = {}
        lines: list[str] = []
        for line in template:
            if line == "B":
                lines += ["    " + inner for inner in self.block(depth + 1, self.random.choice([1, 1, 2]))]
            else:
                lines.append(self.fill(line, depth, new))
        if template in (["{n} = {0}"], ["{n}, {m} = {0}, {1}"]):
            self.names += new.values()
        return lines


class Sink:
    """A file that drops what it is given."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def source(seed: int, *, through_c: bool) -> str:
    """Return the source of the program with this number."""
    writer = Writer(seed, through_c)
    lines = [line for _ in range(3) for line in writer.statement(1)]
    return "\n    ".join(["def program(ch, receive, gate, first):", *lines])


def program(seed: int, *, through_c: bool) -> Callable[[lissom.channel], object]:
    """Return the program with this number, a function of the channel on which it blocks."""
    names: dict[str, Any] = dict(NAMES, sink=Sink())
    exec(compile(source(seed, through_c=through_c), f"<program {seed}>", "exec"), names)
    body = names["program"]

    def run(channel: lissom.channel) -> None:
        with contextlib.suppress(Failure, TypeError):
            body(channel, channel.receive, Gate(channel), Mark())

    return run


def resume(tasklet: lissom.tasklet) -> None:
    """Let a tasklet go on that blocks or has paused in a program."""
    if tasklet.paused:
        tasklet.run()
        return
    channel = tasklet._channel
    with contextlib.suppress(Failure):
        if channel.balance < 0:
            channel.send(Mark())
        else:
            channel.receive()
