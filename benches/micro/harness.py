"""What every micro benchmark shares: the command line, the clock and the line of JSON.

A case is a file with one function for each peer, marked with :func:`peer`. It is run in a process of
its own as ``python switch.py PEER --size N --seconds S``, calls that function and prints its figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

NOT_INSTALLED = 3
"""Exit code when the peer's package is missing."""

Measure = Callable[[int, float], dict[str, float]]
"""Takes the case's size and the seconds to spend; returns figures by name."""

_peers: dict[str, Measure] = {}


def peer(name: str) -> Callable[[Measure], Measure]:
    """Mark the function that measures ``name``."""

    def mark(function: Measure) -> Measure:
        _peers[name] = function
        return function

    return mark


def main() -> None:
    """Run the peer that the command line names and print its figures as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=sorted(_peers))
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    try:
        figures = _peers[options.peer](options.size, options.seconds)
    except ModuleNotFoundError as error:
        print(f"not installed: {error.name}", file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    print(json.dumps(figures))


def per_operation(run: Callable[[int], int], seconds: float, *, start: int = 100) -> dict[str, float]:
    """Time ``run(count)``, which returns how many operations it did, in rounds of growing size.

    The first rounds warm up and find a count that takes about ``seconds``; the last is measured.
    """
    count = start
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        operations = run(count)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if wall >= seconds * 0.5:
            return {"ns": wall / operations * 1e9, "cpu_ns": cpu / operations * 1e9, "operations": operations}
        # At most tenfold: the first rounds are slow and say little.
        count = int(count * min(10.0, max(1.5, seconds / max(wall, 1e-6))))


def memory() -> int:
    """Resident memory and page tables of this process, in bytes."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields[name].split()[0]) for name in ("VmRSS", "VmPTE")) * 1024
