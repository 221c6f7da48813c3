"""See what the tasklets of the program do.

    import lissom.inspect

    lissom.inspect.dump()       # every tasklet: state, what it waits for and since when, full stack

From outside: ``LISSOM_DUMP_SIGNAL=USR1`` prints the same when the signal comes, ``LISSOM_BLOCKED_MS=100`` reports
tasklets that hold their thread longer, and with ``LISSOM_TOP=1`` (or `serve`) ``python -m lissom.top PID`` shows a live
view.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from lissom import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Driver", "TaskletInfo", "counters", "driver", "dump", "on_blocked", "serve", "stack", "tasklets"]

# The oldest and the newest frames of a stack that is deeper are shown.
_DEEPEST = 40


@dataclass(frozen=True)
class TaskletInfo:
    """What is known of one tasklet at one moment."""

    tasklet: _core.tasklet
    """The tasklet itself."""
    state: str
    """``running``, ``runnable``, ``waiting``, ``paused`` or ``new``."""
    is_main: bool
    """Whether it is the main tasklet of its thread."""
    thread_id: int
    """The ident of its OS thread."""
    waits_for: str | None
    """What it waits for, as a text for people."""
    waited: float | None
    """For how many seconds it has waited."""
    stack: traceback.StackSummary
    """Its Python frames, the innermost last; empty before it starts."""

    @property
    def where(self) -> tuple[str, ...]:
        """Its stack as texts, the outermost first: equal for tasklets that are at the same place."""
        return tuple(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in self.stack)


def stack(tasklet: _core.tasklet) -> traceback.StackSummary:
    """Return the Python frames of a tasklet, of any thread, the innermost last. Never switches.

    Readable while it waits; empty before it starts and after its end. Of more than 40 frames the middle is left out.
    """
    frames = []
    frame = tasklet.frame
    while frame is not None:
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    if len(frames) > _DEEPEST:
        frames[_DEEPEST // 2 : -_DEEPEST // 2] = []
    return traceback.StackSummary.extract(iter(frames[::-1]), lookup_lines=False)


def _state(tasklet: _core.tasklet) -> str:
    if tasklet.is_current:
        return "running"
    if tasklet.blocked:
        return "waiting"
    if tasklet.paused:
        return "paused" if tasklet.frame else "new"
    return "runnable"


def tasklets() -> list[TaskletInfo]:
    """Return what is known of every live tasklet of the process, of all threads. Never switches."""
    now = time.monotonic()
    found = []
    for tasklet in _core._tasklets():
        since = tasklet.waits_since
        found.append(
            TaskletInfo(
                tasklet=tasklet,
                state=_state(tasklet),
                is_main=tasklet.is_main,
                thread_id=tasklet.thread_id,
                waits_for=tasklet.waits_for,
                waited=None if since is None else max(0.0, now - since),
                stack=stack(tasklet),
            )
        )
    return found


def counters() -> dict[str, int]:
    """Return counters of the calling thread's scheduler: switches, runnable tasklets, stacks, their memory in bytes."""
    return _core._stats()


class Driver(NamedTuple):
    """How a thread's scheduler waits for input and output."""

    name: str
    """``"uring"``, ``"epoll"`` or ``"poll"``."""
    note: str | None
    """Why it is not the one that ``LISSOM_DRIVER=auto`` prefers; None if it is, or was asked for by name."""


def driver() -> Driver:
    """Return the driver of the calling thread's scheduler. Never switches."""
    return Driver(*_core._driver())


def _grouped(infos: Iterable[TaskletInfo]) -> list[tuple[TaskletInfo, int, float]]:
    """Join tasklets that are in the same state at the same place: the first of them, how many, the longest wait."""
    groups: dict[tuple[object, ...], tuple[TaskletInfo, int, float]] = {}
    for info in infos:
        # What it waits for may hold an address or a number: of tasklets at the same place they differ.
        kind = re.sub(r"0x[0-9a-f]+|[0-9]+", "", info.waits_for or "")
        key = (info.state, info.is_main, info.thread_id, info.where, kind)
        first, count, longest = groups.get(key, (info, 0, 0.0))
        groups[key] = (first, count + 1, max(longest, info.waited or 0.0))
    return sorted(groups.values(), key=lambda group: -group[1])


def dump(file: IO[str] | None = None) -> None:
    """Print every tasklet to ``file``, ``sys.stderr`` by default: state, what it waits for and since when, full stack.

    Tasklets at the same place are printed once, with their number. Switches only if the file would block.
    """
    infos = tasklets()
    lines = [f"{len(infos)} tasklets in process {os.getpid()}"]
    for info, count, longest in _grouped(infos):
        name = "main tasklet" if info.is_main else "tasklet" if count == 1 else f"{count} tasklets"
        text = f"{name} of thread {info.thread_id:#x}, {info.state}"
        if info.waits_for is not None:
            text += f": {'the first ' if count > 1 else ''}waits for {info.waits_for}, {longest:.1f} s"
        lines += [text, *"".join(info.stack.format()).splitlines()]
    print("\n".join(lines), file=file if file is not None else sys.stderr, flush=True)


# ---- tasklets that hold their thread ---------------------------------------------------------------------------------


def _print_blocked(tasklet: _core.tasklet, seconds: float, frames: traceback.StackSummary, late: bool) -> None:
    note = " (C code held the GIL: this is where it was afterwards)" if late else ""
    text = f"{tasklet!r} has held its thread for {seconds * 1000:.0f} ms{note}:\n" + "".join(frames.format())
    print(text, end="", file=sys.stderr, flush=True)


on_blocked: Callable[[_core.tasklet, float, traceback.StackSummary, bool], object] = _print_blocked
"""Called for a tasklet that holds its thread for longer than ``LISSOM_BLOCKED_MS``, once each time.

``on_blocked(tasklet, seconds, stack, late)``: ``late`` says that C code held the GIL, so that the stack could only be
taken when it had given it back. Called in a thread of its own; it must not wait. Prints to ``sys.stderr`` by default;
assign another function to replace it.
"""


def _blocked(tasklet: _core.tasklet, seconds: float, late: bool) -> None:
    on_blocked(tasklet, seconds, stack(tasklet), late)


def _blocked_no_more(thread_id: int, seconds: float) -> None:
    if on_blocked is _print_blocked:
        print(f"thread {thread_id:#x} goes on after {seconds * 1000:.0f} ms", file=sys.stderr, flush=True)


# ---- a live view -----------------------------------------------------------------------------------------------------


def _socket_folder() -> Path:
    """Return the folder for the sockets of this user's programs, made if need be: nobody else may look into it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "lissom" if runtime else Path("/tmp") / f"lissom-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} must belong to you alone: its mode is {status.st_mode & 0o777:o}, not 700")
    return folder


def serve() -> str:
    """Let ``python -m lissom.top`` look at this program; return the path of the socket that it reads. Never switches.

    A native thread answers, also while the program computes or hangs in Python code. Only the same user can connect.
    Calling it again changes nothing. ``LISSOM_TOP=1`` in the environment does it when `lissom` is imported.
    """
    path = _socket_folder() / f"{os.getpid()}.sock"
    if str(path) not in _served:
        path.unlink(missing_ok=True)
        _core._serve(str(path))
        _served.add(str(path))
    return str(path)


_served: set[str] = set()


def _snapshot() -> str:
    """Return the state of the program as a line of JSON: what `lissom.top` reads."""
    import json

    infos = tasklets()
    groups = [
        {
            "count": count,
            "state": info.state,
            "main": info.is_main,
            "thread": info.thread_id,
            "waits_for": info.waits_for,
            "longest": longest,
            "where": list(info.where),
        }
        for info, count, longest in _grouped(infos)
    ]
    return json.dumps({"version": 1, "pid": os.getpid(), "tasklets": len(infos), "groups": groups}) + "\n"


# ---- what the environment asks for -----------------------------------------------------------------------------------


def _start_from_environment() -> None:
    """Switch on what the environment asks for; ImportError with one line if it asks for something impossible."""
    import signal

    wanted = os.environ.get("LISSOM_DUMP_SIGNAL")
    if wanted:
        name = wanted.upper().removeprefix("SIG")
        known = {member.name.removeprefix("SIG"): member for member in signal.Signals}
        known.update({str(member.value): member for member in signal.Signals})
        if name not in known or name in ("KILL", "STOP", "9", "19"):
            raise ImportError(
                f"LISSOM_DUMP_SIGNAL={wanted} is not a signal that can be handled: give USR1, or a number"
            )
        import threading

        if threading.current_thread() is threading.main_thread():
            signal.signal(known[name], lambda *_: dump())
    limit = os.environ.get("LISSOM_BLOCKED_MS")
    if limit:
        if not limit.isdigit() or not 1 <= int(limit) <= 3_600_000:
            raise ImportError(f"LISSOM_BLOCKED_MS={limit} is not a time: give milliseconds from 1 to 3600000")
        _core._watch_blocked(int(limit))
    if os.environ.get("LISSOM_TOP", "0") not in ("", "0"):
        serve()
