"""A program as data: what its tasklets do, as Python expressions, and its form as JSON.

A call is an expression in which ``t`` are the tasklets, ``c`` the channels, ``f`` the scripts of the tasklets as
functions, and ``stackless`` the module, real or modelled: ``c[0].send(5)``, ``t[2].kill(pending=True)``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a call that raises does to its script. TaskletExit is no Exception.
ALL = "all"  # the script goes on
ERRORS = "errors"  # it goes on, but TaskletExit leaves it
NONE = "none"  # the exception leaves it
CATCHES: dict[str, tuple[type[BaseException], ...]] = {ALL: (BaseException,), ERRORS: (Exception,), NONE: ()}

# How a tasklet begins.
STARTS = ("setup", "bound", "paused", "empty")

_REFERENCE = re.compile(r"\b([tcf])\[(\d+)\]")


@dataclass(frozen=True)
class Call:
    """One step of a script."""

    text: str
    catch: str = ALL
    trapped: bool = False  # the switch trap is on meanwhile

    def references(self, kind: str, number: int) -> bool:
        """Tell whether it names tasklet ``t``, script ``f`` or channel ``c`` of this number."""
        return (kind, str(number)) in _REFERENCE.findall(self.text)

    def renumbered(self, kinds: str, gone: int) -> Call:
        """Return it with the numbers above `gone` one smaller."""

        def rename(match: re.Match[str]) -> str:
            kind, number = match[1], int(match[2])
            return f"{kind}[{number - 1 if kind in kinds and number > gone else number}]"

        return replace(self, text=_REFERENCE.sub(rename, self.text))


@dataclass(frozen=True)
class Body:
    """A tasklet: how it begins, and its script."""

    start: str = "setup"
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Program:
    """Channels as (preference, schedule_all), tasklets, and what the main tasklet does."""

    main: tuple[Call, ...]
    bodies: tuple[Body, ...] = ()
    channels: tuple[tuple[int, int], ...] = ()
    note: str = field(default="", compare=False)

    def scripts(self) -> Iterator[tuple[Call, ...]]:
        """Return the scripts, that of the main tasklet first."""
        yield self.main
        for body in self.bodies:
            yield body.calls

    def size(self) -> int:
        """Return how many calls there are."""
        return sum(map(len, self.scripts()))

    def without_body(self, number: int) -> Program:
        """Return it without a tasklet, and without the calls that name it."""
        return self._without("tf", number, replace(self, bodies=_cut(self.bodies, number)))

    def without_channel(self, number: int) -> Program:
        """Return it without a channel, and without the calls that name it."""
        return self._without("c", number, replace(self, channels=_cut(self.channels, number)))

    def with_script(self, number: int, calls: tuple[Call, ...]) -> Program:
        """Return it with another script `number`, counted as `scripts` does."""
        if number == 0:
            return replace(self, main=calls)
        body = replace(self.bodies[number - 1], calls=calls)
        return replace(self, bodies=(*self.bodies[: number - 1], body, *self.bodies[number:]))

    @staticmethod
    def _without(kinds: str, number: int, program: Program) -> Program:
        for index, calls in enumerate(list(program.scripts())):
            kept = (call for call in calls if not any(call.references(kind, number) for kind in kinds))
            program = program.with_script(index, tuple(call.renumbered(kinds, number) for call in kept))
        return program

    # ---- JSON --------------------------------------------------------------------------------------------------------

    def dump(self) -> str:
        """Return it as JSON, a line for each call."""
        document = {
            "note": self.note,
            "channels": [list(channel) for channel in self.channels],
            "main": [_dump_call(call) for call in self.main],
            "tasklets": [
                {"start": body.start, "calls": [_dump_call(call) for call in body.calls]} for body in self.bodies
            ],
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def load(cls, text: str) -> Program:
        """Return the program that `dump` made the text of."""
        document = json.loads(text)
        return cls(
            tuple(map(_load_call, document["main"])),
            tuple(Body(body["start"], tuple(map(_load_call, body["calls"]))) for body in document["tasklets"]),
            tuple((preference, schedule_all) for preference, schedule_all in document["channels"]),
            document["note"],
        )


def _cut(items: tuple[Any, ...], number: int) -> tuple[Any, ...]:
    return items[:number] + items[number + 1 :]


def _dump_call(call: Call) -> str:
    return f"{call.text}  # {call.catch}{', trapped' if call.trapped else ''}"


def _load_call(line: str) -> Call:
    text, _, remark = line.rpartition("  # ")
    catch, _, trapped = remark.partition(", ")
    return Call(text, catch, bool(trapped))
