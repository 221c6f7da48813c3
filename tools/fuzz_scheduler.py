"""Runs random programs on the scheduler and on its model for a given time, and keeps those on which they differ.

    .venv/3.13/bin/python tools/fuzz_scheduler.py --minutes 60 --jobs 2

Each program that fails is made small, and written as JSON (to be kept in tests/model/found) and as a script that needs
nothing but Lissom. Failures that look alike are written once. Exit code 1 if there were any.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent

# How many programs each job takes in hand at once.
_CHUNK = 20


class Fuzzer:
    """What the jobs share: which seeds are done, what was found, and where it is written."""

    def __init__(self, options: argparse.Namespace) -> None:
        sys.path.insert(0, str(ROOT / "tests"))
        self._worker = importlib.import_module("model.worker")
        self._shrink = importlib.import_module("model.shrink").shrink
        self._render = importlib.import_module("model.render").render
        self._options = options
        self._lock = threading.Lock()
        self._next = options.seed
        self._deadline = time.monotonic() + options.minutes * 60
        self.done = self.failures = 0
        self.found: dict[str, Path] = {}
        self.crashed: BaseException | None = None

    def job(self) -> None:
        """Run chunks of seeds until the time is over."""
        try:
            with self._worker.Worker() as worker:
                while time.monotonic() < self._deadline and not self.crashed:
                    with self._lock:
                        first, self._next = self._next, self._next + _CHUNK
                    for seed in range(first, first + _CHUNK):
                        self._check(worker, seed)
        except BaseException as error:  # noqa: BLE001 - shown by the thread that watches
            self.crashed = error

    def _check(self, worker: Any, seed: int) -> None:
        threaded = (seed * 2654435761 >> 7) % 100 < self._options.threaded
        line = f"T{seed}" if threaded else str(seed)
        outcome = worker.check(line)
        with self._lock:
            self.done += 1
            self.failures += outcome.failed
        if not outcome.failed:
            return
        program = self._worker.program_of(line)
        look = _look(outcome)
        with self._lock:
            if look in self.found:
                return
            self.found[look] = self._options.output / f"seed-{line}.json"
        if not threaded:
            program = self._shrink(program, lambda smaller: _look(worker.check(smaller)) == look)
            # One that fails only after others, or only now and then, is not smaller now, and its first outcome counts.
            again = worker.check(program)
            outcome = again if again.failed else outcome
        self._write(self.found[look], line, outcome, program)

    def _write(self, path: Path, line: str, outcome: Any, program: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(program.dump())
        text = f"seed {line}: {outcome.kind}\n{outcome.text}\n"
        path.with_suffix(".txt").write_text(text)
        if not line.startswith("T"):
            path.with_suffix(".py").write_text(self._render(program))


def _look(outcome: Any) -> str:
    """Return what failures with the same cause mostly have in common: the kind, and the events without numbers."""
    text = outcome.text
    if outcome.kind == "differs" and "expected:" in text:
        lines = [line.split(":", 1)[1].strip().partition(" | ") for line in text.splitlines()[-2:]]
        (expected, _, right), (seen, _, wrong) = lines
        # Where the events are the same, what follows the bar differs: the words that are only on one side.
        text = f"{expected} / {seen}" if expected != seen else " ".join(sorted({*right.split()} ^ {*wrong.split()}))
    elif "panicked" in text:
        text = text[text.index("panicked") :].partition("\nnote")[0][:200]
    elif outcome.kind != "differs":
        text = ""
    numbers = re.sub(r"\b(t\[?\d+\]?|main|stackless\.getmain\(\))|0x\w+|\d+", "#", text)
    return f"{outcome.kind} {numbers}"


def _plain(fuzzer: Fuzzer, jobs: list[threading.Thread], say: Callable[[str], None]) -> None:
    """Print a line now and then."""
    start = last = time.monotonic()
    while any(job.is_alive() for job in jobs):
        jobs[0].join(1)
        if time.monotonic() - last > 60:
            last = time.monotonic()
            say(f"{last - start:.0f} s: {fuzzer.done} programs, {fuzzer.failures} failed, {len(fuzzer.found)} kinds")


def _with_progress(fuzzer: Fuzzer, jobs: list[threading.Thread], minutes: float) -> None:
    """Show a bar, on a terminal that has `rich`."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.fields[done]} programs, {task.fields[failed]} failed, {task.fields[kinds]} kinds")
    with Progress(BarColumn(), TimeRemainingColumn(), text) as progress:
        bar = progress.add_task("", total=minutes * 60, done=0, failed=0, kinds=0)
        start = time.monotonic()
        while any(job.is_alive() for job in jobs):
            jobs[0].join(0.2)
            seconds, kinds = time.monotonic() - start, len(fuzzer.found)
            progress.update(bar, completed=seconds, done=fuzzer.done, failed=fuzzer.failures, kinds=kinds)


def main() -> int:
    """Read the command line, run the jobs, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to go on (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all cores)")
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1000, help="the first seed (default: the time)")
    parser.add_argument("--threaded", type=int, default=20, help="percentage of programs on several threads")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "fuzz", help="where to write what is found")
    options = parser.parse_args()
    fuzzer = Fuzzer(options)
    jobs = [threading.Thread(target=fuzzer.job) for _ in range(options.jobs)]
    for job in jobs:
        job.start()
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        _with_progress(fuzzer, jobs, options.minutes)
    else:
        _plain(fuzzer, jobs, lambda text: print(text, flush=True))
    if fuzzer.crashed:
        raise fuzzer.crashed
    print(f"{fuzzer.done} programs from seed {options.seed} on: {fuzzer.failures} failed, {len(fuzzer.found)} kinds")
    for path in fuzzer.found.values():
        print(f"  {path}")
    return 1 if fuzzer.found else 0


if __name__ == "__main__":
    sys.exit(main())
