"""Compare files under Lissom with files under plain Python, in pairs of turns in one process.

    python benches/files.py [--rounds N] [--folder FOLDER] [--only PART]

Prints a table in reStructuredText. In the warm cases all lies in memory: what Lissom costs where nothing has to wait. A
turn with the hooks and one without follow each other at once, so that both see the same machine, and the ratio is the
median of the pairs'. In the cold cases 100 tasklets, and 100 OS threads, read files that the kernel was told to forget.
The folder should lie on a disk; on tmpfs nothing is ever cold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lissom

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 64 * 1024
LARGE = 32 * 1024 * 1024
COLD_FILES = 100
COLD_SIZE = 1024 * 1024


@dataclass(frozen=True)
class Files:
    """What the cases work on."""

    folder: Path
    large: Path
    lines: Path
    small: Path
    few: Path
    many: list[str]

    @classmethod
    def make(cls, folder: Path) -> Files:
        """Write them."""
        files = cls(folder, folder / "large", folder / "lines", folder / "small", folder / "few", [])
        files.large.write_bytes(bytes(LARGE))
        files.lines.write_bytes(b"a line of some sixty characters, as source texts and logs have\n" * 100_000)
        files.small.write_bytes(bytes(4096))
        files.few.mkdir()
        for number in range(20):
            (files.few / str(number)).touch()
        for number in range(2_000):
            path = folder / f"many{number}"
            path.touch()
            files.many.append(str(path))
        return files


def pieces(files: Files) -> None:
    """``read(64 KiB)`` of a cached file."""
    with files.large.open("rb") as file:
        read = file.read
        while read(PIECE):
            pass


def raw_pieces(files: Files) -> None:
    """``os.read`` of 64 KiB, cached."""
    fd = os.open(files.large, os.O_RDONLY)
    while os.read(fd, PIECE):
        pass
    os.close(fd)


def whole(files: Files) -> None:
    """``read()`` of 32 MiB, cached."""
    with files.large.open("rb") as file:
        file.read()


def text_lines(files: Files) -> None:
    """lines of text, cached."""
    with files.lines.open(encoding="utf-8") as file:
        for _ in file:
            pass


def binary_lines(files: Files) -> None:
    """``readline()`` of bytes, cached."""
    with files.lines.open("rb") as file:
        readline = file.readline
        while readline():
            pass


def binary_loop(files: Files) -> None:
    """lines of bytes in a ``for`` loop, cached."""
    with files.lines.open("rb") as file:
        for _ in file:
            pass


def small(files: Files) -> None:
    """``open``, ``read`` and ``close`` of 4 KiB."""
    name = str(files.small)
    for _ in range(2_000):
        with open(name, "rb") as file:
            file.read()


def stats(files: Files) -> None:
    """``os.stat``."""
    name, stat = str(files.small), os.stat
    for _ in range(10_000):
        stat(name)


def opens(files: Files) -> None:
    """``os.open`` and ``os.close``."""
    name = str(files.small)
    for _ in range(5_000):
        os.close(os.open(name, os.O_RDONLY))


def listings(files: Files) -> None:
    """``os.listdir`` of 20 entries."""
    name = str(files.few)
    for _ in range(2_000):
        os.listdir(name)  # noqa: PTH208 - the function that is measured


def walks(files: Files) -> None:
    """``os.stat`` of 2,000 files, each once."""
    for path in files.many:
        os.stat(path)  # noqa: PTH116 - the function that is measured


def writes(files: Files) -> None:
    """``os.write`` of 4 KiB."""
    fd, data = os.open(files.folder / "written", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), bytes(4096)
    for _ in range(2_000):
        os.write(fd, data)
    os.close(fd)


WARM: tuple[Callable[[Files], None], ...] = (
    pieces,
    raw_pieces,
    whole,
    text_lines,
    binary_lines,
    binary_loop,
    small,
    stats,
    walks,
    opens,
    listings,
    writes,
)


def cpu_time(case: Callable[[Files], None], files: Files) -> float:
    """CPU seconds of one turn."""
    start = time.process_time()
    case(files)
    return time.process_time() - start


def hooked_cpu_time(case: Callable[[Files], None], files: Files) -> float:
    """CPU seconds of one turn with the hooks in place."""
    lissom.hook()
    try:
        return cpu_time(case, files)
    finally:
        lissom.unhook()


def forget(files: list[Path]) -> None:
    """Have the kernel drop the contents from memory."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def cold(files: list[Path], start: Callable[[Callable[[], object]], Callable[[], object]]) -> tuple[float, float]:
    """Read all files at once; return wall and CPU seconds.

    ``start`` starts one reader and returns how to wait for it.
    """
    forget(files)
    wall, cpu = time.perf_counter(), time.process_time()
    for join in [start(path.read_bytes) for path in files]:
        join()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_thread(work: Callable[[], object]) -> Callable[[], object]:
    """A reader in a thread."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread.join


def in_tasklet(work: Callable[[], object]) -> Callable[[], object]:
    """A reader in a tasklet."""
    tasklet = lissom.spawn(work)
    return lambda: lissom.join(tasklet)


def hooked_cold(files: list[Path]) -> tuple[float, float]:
    """As ``cold``, in tasklets."""
    lissom.hook()
    try:
        return cold(files, in_tasklet)
    finally:
        lissom.unhook()


def row(name: str, pairs: list[tuple[float, float]], operations: str = "") -> list[str]:
    """A row of the table: the median of the ratios and its quartiles."""
    ratios = sorted(ours / plain for ours, plain in pairs)
    low, _, high = statistics.quantiles(ratios, n=4)
    return [name + operations, f"{statistics.median(ratios):.2f}", f"{low:.2f} to {high:.2f}"]


def measure(folder: Path, rounds: int, only: str) -> list[list[str]]:
    """Make all rows."""
    files = Files.make(folder)
    rows = []
    for case in WARM:
        name = (case.__doc__ or "").rstrip(".")
        if only not in name:
            continue
        cpu_time(case, files)
        hooked_cpu_time(case, files)
        rows.append(row(name, [(hooked_cpu_time(case, files), cpu_time(case, files)) for _ in range(rounds)]))
    if only not in "cold":
        return rows
    many = [folder / f"cold{number}" for number in range(COLD_FILES)]
    for path in many:
        path.write_bytes(os.urandom(COLD_SIZE))
    os.sync()
    turns = [(hooked_cold(many), cold(many, in_thread)) for _ in range(max(4, rounds // 4))]
    for index, what in enumerate(("elapsed time", "CPU time")):
        pairs = [(ours[index], plain[index]) for ours, plain in turns]
        rows.append(row(f"{COLD_FILES} cold files of 1 MiB at once, {what}", pairs))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where to put the files; default: a temporary folder")
    parser.add_argument("--only", default="", help="only the cases whose names contain this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lissom-bench-", dir=options.folder) as folder:
        rows = [["what", "Lissom / Python", "quartiles"], *measure(Path(folder), options.rounds, options.only)]
    widths = [max(len(line[column]) for line in rows) for column in range(3)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    print("\n".join([rule, lines[0], rule, *lines[1:], rule]))


if __name__ == "__main__":
    main()
