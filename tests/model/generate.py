"""Random programs. Each seed first chooses which kinds of calls there are, so that programs differ in character."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from model.program import ALL, ERRORS, NONE, STARTS, Body, Call, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Kinds of calls, with the weight that each has when it is chosen. In a template C is any channel, T any tasklet of the
# program, M any tasklet or the main one, F any script, and V a value that is used only once.
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "send": (12, ("C.send(V)",)),
    "receive": (12, ("C.receive()",)),
    "iterate": (3, ("C.__next__()",)),
    "sequence": (3, ("C.send_sequence([V, V])", "C.send_sequence([])")),
    "send_exception": (3, ("C.send_exception(KeyError, V)", "C.send_exception(ValueError)")),
    "send_throw": (3, ("C.send_throw(KeyError, V)", "C.send_throw(KeyError(V))", "C.send_throw(TaskletExit)")),
    "send_bad": (1, ("C.send_throw(7)", "C.send_exception(7)", "C.send_throw(KeyError(V), 1)")),
    "send_bomb": (1, ("C.send(stackless.bomb(KeyError, V))",)),
    "close": (2, ("C.close()", "C.close()", "C.open()")),
    "preference": (2, ("setattr(C, 'preference', -1)", "setattr(C, 'preference', 0)", "setattr(C, 'preference', 1)")),
    "schedule_all": (2, ("setattr(C, 'schedule_all', 0)", "setattr(C, 'schedule_all', 1)")),
    "schedule": (10, ("stackless.schedule()", "stackless.schedule(V)")),
    "schedule_remove": (3, ("stackless.schedule_remove()", "stackless.schedule_remove(V)")),
    "run_all": (6, ("stackless.run()",)),
    "run_flags": (
        2,
        (
            "stackless.run(timeout=10**9)",
            "stackless.run(10**9, soft=True)",
            "stackless.run(10**9, totaltimeout=True)",
            "stackless.run(10**9, ignore_nesting=True)",
        ),
    ),
    "run": (5, ("T.run()", "M.run()")),
    "switch": (5, ("T.switch()", "M.switch()")),
    "insert": (5, ("T.insert()", "M.insert()")),
    "remove": (5, ("T.remove()", "M.remove()")),
    "kill": (4, ("T.kill()",)),
    "kill_pending": (3, ("T.kill(pending=True)", "T.kill(True)")),
    "kill_main": (1, ("M.kill()", "M.kill(pending=True)")),
    "throw": (3, ("T.throw(KeyError, V)", "T.throw(KeyError(V))", "M.throw(KeyError, V)")),
    "throw_pending": (3, ("T.throw(KeyError, V, pending=True)", "M.throw(KeyError, V, None, True)")),
    "throw_bad": (1, ("T.throw(7)", "T.throw(KeyError(V), 1)", "T.raise_exception(7)", "T.throw(KeyError, 1, 2)")),
    "raise_exception": (2, ("T.raise_exception(KeyError, V)", "M.raise_exception(ValueError)")),
    "setup": (5, ("T.setup()", "T()")),
    "bind": (
        3,
        (
            "T.bind(F)",
            "T.bind(F, ())",
            "T.bind(F, None, {})",
            "T.bind()",
            "M.bind(F)",
            "(T.tempval is None or callable(T.tempval)) and T.bind(None, ())",
        ),
    ),
    "block_trap": (2, ("setattr(M, 'block_trap', True)", "setattr(M, 'block_trap', False)")),
    "tempval": (2, ("M.alive and setattr(M, 'tempval', V)", "M.alive and setattr(M, 'tempval', None)")),
    "tempval_bomb": (1, ("M.alive and setattr(M, 'tempval', stackless.bomb(KeyError, V))",)),
    "fail": (3, ("fail(V)",)),
    "switch_callback": (1, ("stackless.set_schedule_callback(watch_switch)", "stackless.set_schedule_callback(None)")),
    "switch_callback_fails": (1, ("stackless.set_schedule_callback(watch_switch_fail)",)),
    "channel_callback": (1, ("stackless.set_channel_callback(watch_channel)", "stackless.set_channel_callback(None)")),
    "handler": (
        1,
        (
            "stackless.set_error_handler(handle)",
            "stackless.set_error_handler(handle_fail)",
            "stackless.set_error_handler(handle_schedule)",
            "stackless.set_error_handler(None)",
        ),
    ),
}

# Without these nothing much happens.
_BASIC = ("send", "receive", "schedule", "run_all")


def generate(seed: int) -> Program:
    """Return the program of a seed, always the same."""
    return _Generator(Random(seed)).program(f"seed {seed}")


class _Generator:
    def __init__(self, random: Random) -> None:
        self._random = random
        self._values = 0
        self._tasklets = random.choice((1, 2, 2, 3, 3, 3, 4, 5, 6))
        self._channels = random.choice((1, 1, 1, 2, 2, 3))
        others = [kind for kind in KINDS if kind not in _BASIC]
        chosen = random.sample(others, random.randrange(2, len(others)))
        self._kinds = [*_BASIC, *chosen]
        self._weights = [KINDS[kind][0] * random.choice((1, 1, 1, 3)) for kind in self._kinds]
        self._catch = [random.random() + 0.05 for _ in (ALL, ERRORS, NONE)]
        self._trapped = random.choice((0.0, 0.0, 0.15))
        self._length = random.choice((4, 8, 12))

    def program(self, note: str) -> Program:
        """Return the whole program."""
        channels = tuple(self._channel() for _ in range(self._channels))
        bodies = tuple(Body(self._start(), self._script()) for _ in range(self._tasklets))
        # The program ends with the main tasklet, so that one has more to do, and pumps at the end.
        main = (*self._script(), *self._script(), *self._pump())
        return Program(main, bodies, channels, note)

    def _pump(self) -> Iterable[Call]:
        for _ in range(self._random.choice((0, 1, 2))):
            for number in self._random.sample(range(self._tasklets), self._tasklets):
                yield Call("stackless.run()")
                yield Call(f"t[{number}].insert()")
            yield Call("stackless.run()")
            yield self._call()

    def _channel(self) -> tuple[int, int]:
        return self._random.choice((-1, -1, -1, 0, 1)), int(self._random.random() < 0.15)

    def _start(self) -> str:
        return self._random.choices(STARTS, weights=(8, 1, 2, 1))[0]

    def _script(self) -> tuple[Call, ...]:
        return tuple(self._call() for _ in range(self._random.randrange(self._length + 1)))

    def _call(self) -> Call:
        kind = self._random.choices(self._kinds, self._weights)[0]
        template = self._random.choice(KINDS[kind][1])
        text = "".join(self._fill(template))
        catch = NONE if kind == "fail" else self._random.choices((ALL, ERRORS, NONE), self._catch)[0]
        return Call(text, catch, self._random.random() < self._trapped)

    def _fill(self, template: str) -> Iterable[str]:
        fillers: dict[str, Callable[[], str]] = {
            "C": lambda: f"c[{self._random.randrange(self._channels)}]",
            "T": self._tasklet,
            "M": lambda: "stackless.getmain()" if self._random.random() < 0.4 else self._tasklet(),
            "F": lambda: f"f[{self._random.randrange(self._tasklets)}]",
            "V": self._value,
        }
        chosen: dict[str, str] = {}
        for position, letter in enumerate(template):
            # A capital that stands alone is a placeholder; within one call each but V means the same everywhere.
            around = template[position - 1 : position] + template[position + 1 : position + 2]
            if letter not in fillers or any(sign.isalnum() or sign == "_" for sign in around):
                yield letter
            elif letter == "V":
                yield self._value()
            else:
                yield chosen.setdefault(letter, fillers[letter]())

    def _tasklet(self) -> str:
        return f"t[{self._random.randrange(self._tasklets)}]"

    def _value(self) -> str:
        self._values += 1
        return str(self._values)
