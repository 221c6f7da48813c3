"""A process that runs programs and compares, and the client that drives it: what crashes or hangs is an outcome.

The process reads a line for each program and answers with a line of JSON: what is wrong, empty if nothing is. A line
is a seed, or the program as JSON; with a T before it, it is one of those whose tasklets live on several threads.

    echo 17 | python -m model.worker
"""

from __future__ import annotations

import faulthandler
import gc
import json
import select
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from model import generate, threads
from model.program import Program
from model.threads import ThreadedProgram

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

# Seconds for one program, which takes milliseconds; after that the process dumps its stacks and ends.
LIMIT = 10.0
# After so many programs the tasklets of the process are counted.
BATCH = 50

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Outcome:
    """What became of a program: "equal", "differs", "crash" or "hang", and what there is to say about it."""

    kind: str
    text: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything was wrong."""
        return self.kind != "equal"


class Worker:
    """A process that runs programs one after another; started when it is needed, and again after every failure."""

    def __init__(self, options: Sequence[str] = ("-X", "dev"), limit: float = LIMIT) -> None:
        self._command = [sys.executable, *options, "-m", "model.worker", str(limit)]
        self._limit = limit
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def check(self, program: Program | ThreadedProgram | str) -> Outcome:
        """Run a program, or that of a seed: "17", "T17"."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        line = program if isinstance(program, str) else _as_line(program)
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._died()
        # The process ends itself before that; this is for one that is stuck beyond the reach of faulthandler.
        ready, _, _ = select.select([process.stdout], [], [], self._limit + 10)
        answer = process.stdout.readline() if ready else ""
        if not answer.endswith("\n"):
            return self._died()
        text = json.loads(answer)
        if not text:
            return Outcome("equal")
        said = self._said()
        self.stop()
        return Outcome("differs", f"{said}\n{text}" if "panicked" in said else text)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _start(self) -> subprocess.Popen[str]:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed in stop()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=HERE.parent,
        )
        return self._process

    def _said(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        return self._errors.read()[-4000:]

    def _died(self) -> Outcome:
        process = self._process
        assert process is not None
        try:
            code = process.wait(1)
        except subprocess.TimeoutExpired:
            self.stop()
            return Outcome("hang", "does not even end itself")
        text = self._said()
        self.stop()
        return Outcome("hang" if "Timeout (" in text else "crash", f"exit code {code}\n{text}")


def _as_line(program: Program | ThreadedProgram) -> str:
    if isinstance(program, ThreadedProgram):
        return "T" + program.dump()
    return json.dumps(json.loads(program.dump()))


def program_of(line: str) -> Program | ThreadedProgram:
    """Return the program that a line stands for."""
    if line.startswith("T"):
        rest = line[1:]
        return ThreadedProgram.load(rest) if rest.startswith("{") else threads.generate(int(rest))
    return Program.load(line) if line.startswith("{") else generate.generate(int(line))


def mistakes_of(program: Program | ThreadedProgram, limit: float) -> str:
    """Run a program and return what is wrong; end the process after `limit` seconds."""
    import stackless

    from model.execute import difference, run_on_model, run_on_real

    expected = run_on_model(program) if isinstance(program, Program) else []
    faulthandler.dump_traceback_later(limit, exit=True)
    if isinstance(program, Program):
        mistakes = difference(expected, run_on_real(program))
    else:
        mistakes = threads.check(program, stackless)
    faulthandler.cancel_dump_traceback_later()
    return mistakes


def main(limit: float) -> None:
    """Answer lines until there are no more."""
    from lissom import _core

    faulthandler.enable()
    for number, line in enumerate(sys.stdin, 1):
        text = mistakes_of(program_of(line), limit)
        if number % BATCH == 0 and not text:
            gc.collect()
            if len(left := _core._tasklets()) > 1:  # the main tasklet, if there is one, stays
                text = f"tasklets left by the last {BATCH} programs: {left}"
        print(json.dumps(text), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else LIMIT)
