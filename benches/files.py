"""Files that are in the page cache, plain and hooked: CPU time of each kind of call, and the ratio.

    python benches/files.py [--rounds 5]

Needs lissom installed. Each round measures both in processes of their own, one after the other; the least counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 64 << 20
LINES = 500_000


def pieces(path: Path, size: int) -> None:
    """Read a raw file to its end."""
    with path.open("rb", buffering=0) as file:
        while file.read(size):
            pass


def buffered(path: Path) -> None:
    """Read through a buffer, 1,000 bytes at a time."""
    with path.open("rb") as file:
        while file.read(1000):
            pass


def by_descriptor(path: Path) -> None:
    """Read 4 KiB at a time by `os.read`."""
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 4096):
        pass
    os.close(fd)


def lines(path: Path) -> None:
    """Read lines of text."""
    with path.with_name("text").open() as file:
        for _ in file:
            pass


def writes(path: Path) -> None:
    """Write 8 KiB at a time."""
    block = bytes(8192)
    with path.with_name("written").open("wb", buffering=0) as file:
        for _ in range(4000):
            file.write(block)


def repeat(call: Callable[[], object], times: int) -> None:
    """Call it many times."""
    for _ in range(times):
        call()


# What is measured, and how many calls it makes.
CASES: dict[str, tuple[Callable[[Path], None], int]] = {
    "raw read, 64 KiB": (lambda path: pieces(path, 65_536), SIZE // 65_536),
    "whole file, 64 MiB": (lambda path: repeat(path.read_bytes, 1), 1),
    "lines of text": (lines, LINES),
    "buffered read, 1,000 bytes": (buffered, SIZE // 1000),
    "os.read, 4 KiB": (by_descriptor, SIZE // 4096),
    "raw write, 8 KiB": (writes, 4000),
    "os.stat": (lambda path: repeat(lambda: os.stat(path), 50_000), 50_000),  # noqa: PTH116
    "open and close": (lambda path: repeat(lambda: path.open("rb", buffering=0).close(), 10_000), 10_000),
    "os.listdir": (lambda path: repeat(lambda: os.listdir(path.parent), 10_000), 10_000),  # noqa: PTH208
}


def measure(hooked: bool) -> dict[str, float]:
    """Return the CPU time of one call of each kind, in microseconds."""
    if hooked:
        import lissom

        lissom.hook()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
        path.with_name("text").write_text("some line of text\n" * LINES)
        for name, (case, calls) in CASES.items():
            case(path)
            start = time.process_time()
            case(path)
            found[name] = (time.process_time() - start) / calls * 1e6
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=["plain", "hooked"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure == "hooked")))
        return
    least: dict[str, dict[str, float]] = {"plain": {}, "hooked": {}}
    for _ in range(arguments.rounds):
        for how, best in least.items():
            command = [sys.executable, __file__, "--measure", how]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for name, micros in json.loads(done.stdout).items():
                best[name] = min(micros, best.get(name, micros))
    print(f"{'CPU time per call, microseconds':<32}    plain   hooked   ratio")
    for name, plain in least["plain"].items():
        hooked = least["hooked"][name]
        print(f"{name:<32} {plain:8.2f} {hooked:8.2f}   {hooked / plain:5.2f}")


if __name__ == "__main__":
    main()
