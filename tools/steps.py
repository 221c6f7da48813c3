"""Runs the steps of a command one after another, goes on after a failure, and says at the end what came of each."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    Command = Sequence[str | Path]


class Failed(Exception):
    """A step failed; the text is one line that says what is wrong and what to do."""


class Skipped(Exception):
    """A step cannot be done on this machine; the text says what is missing."""


def run(command: Command, *, cwd: Path, env: Mapping[str, str] | None = None, quiet: bool = False) -> None:
    """Run a command with `env` added to the environment; raises Failed when it cannot be started or fails.

    With `quiet` its output is shown only when it fails.
    """
    words = [str(word) for word in command]
    sys.stdout.flush()
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
            check=False,
        )
    except OSError as error:
        raise Failed(f"{words[0]} does not start: {error.strerror}") from None
    if done.returncode != 0:
        if quiet:
            sys.stdout.write(done.stdout)
        raise Failed(f"exit code {done.returncode} from: {shlex.join(words)}")


class Steps:
    """A list of results; a step whose `needs` have failed is not begun."""

    def __init__(self, wanted: Sequence[str] = ()) -> None:
        self._wanted = wanted
        self._results: list[tuple[str, str, float, str]] = []
        self._bad: set[str] = set()

    def step(self, name: str, action: Callable[[], None], needs: Sequence[str] = ()) -> None:
        """Run `action` as step `name`, unless only other steps are wanted or one in `needs` has failed."""
        if self._wanted and not any(wish in name for wish in self._wanted):
            return
        if broken := [need for need in needs if need in self._bad]:
            self._bad.add(name)
            self._results.append((name, "not run", 0.0, f"{broken[0]} failed"))
            return
        print(f"\n==> {name}", flush=True)
        start = time.monotonic()
        outcome, remark = "ok", ""
        try:
            action()
        except Skipped as reason:
            outcome, remark = "skipped", str(reason)
        except Failed as error:
            outcome, remark = "FAILED", str(error)
            self._bad.add(name)
        if remark:
            print(f"{outcome}: {remark}", flush=True)
        self._results.append((name, outcome, time.monotonic() - start, remark))

    def finish(self) -> int:
        """Print the table of results and return the exit code: 0 when nothing failed and something was run."""
        if not self._results:
            print(f"error: no step is called {' or '.join(self._wanted)}", file=sys.stderr)
            return 2
        width = max(len(name) for name, *_ in self._results)
        print("\nResults:")
        for name, outcome, seconds, remark in self._results:
            print(f"  {name:<{width}}  {outcome:<7} {seconds:6.1f} s" + (f"  {remark}" if remark else ""))
        total = sum(seconds for _, _, seconds, _ in self._results)
        failures = sum(outcome in {"FAILED", "not run"} for _, outcome, _, _ in self._results)
        print(f"{'all passed' if not failures else f'{failures} failed'} in {total:.0f} s", flush=True)
        return 1 if failures else 0
