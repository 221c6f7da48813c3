"""Makes a failing program smaller for as long as it still fails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from model.program import ALL, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def shrink(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Return a program that fails as well, and from which nothing can be taken that is not needed for that.

    Tasklets and channels go first, then runs of calls from long to short, then what is special about a call.
    """
    changed = True
    while changed:
        changed = False
        for step in (_without_bodies, _without_channels, _without_calls, _simpler):
            while (smaller := next(filter(fails, step(program)), None)) is not None:
                program, changed = smaller, True
    return program


def _without_bodies(program: Program) -> Iterator[Program]:
    for number in range(len(program.bodies)):
        yield program.without_body(number)


def _without_channels(program: Program) -> Iterator[Program]:
    for number in range(len(program.channels)):
        yield program.without_channel(number)


def _without_calls(program: Program) -> Iterator[Program]:
    scripts = list(program.scripts())
    length = max(map(len, scripts), default=0)
    while length:
        for number, calls in enumerate(scripts):
            for start in range(len(calls) - length + 1):
                yield program.with_script(number, calls[:start] + calls[start + length :])
        length //= 2


def _simpler(program: Program) -> Iterator[Program]:
    for number, calls in enumerate(program.scripts()):
        for place, call in enumerate(calls):
            plain = [replace(call, trapped=False), replace(call, catch=ALL)]
            for simpler in plain:
                if simpler != call:
                    yield program.with_script(number, (*calls[:place], simpler, *calls[place + 1 :]))
    for number, (preference, schedule_all) in enumerate(program.channels):
        if (preference, schedule_all) != (-1, 0):
            channels = (*program.channels[:number], (-1, 0), *program.channels[number + 1 :])
            yield replace(program, channels=channels)
    for number, body in enumerate(program.bodies):
        if body.start != "setup":
            bodies = (*program.bodies[:number], replace(body, start="setup"), *program.bodies[number + 1 :])
            yield replace(program, bodies=bodies)
