"""Run the interpreter's own tests, unmodified, once plain and once under Lissom, and name every test that is lost.

    python tools/stdlib/stdlib.py [--driver NAME] [--only FILE] [--quick] [--jobs N] [--report FILE]

Runs with the interpreter that is to be tested, which needs lissom installed and its `test` package. Each file of tests
runs in a process and a folder of its own, by ``python -m test``, then by ``python -m lissom -m test``. A test is *lost*
if it passes plain and does not under Lissom. One that passes plain only now and then is not counted: where something is
lost, the plain run is repeated to know.

Exit code 0: what is lost is what `losses.toml` says, and all of that is. 1: something else is. 2: nothing could be run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HERE = Path(__file__).parent
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
DRIVERS = ("uring", "epoll", "poll")
# The slowest file takes two minutes plain on a busy machine.
TIMEOUT = 900.0


@dataclass
class Outcome:
    """What came of one file of tests in one process."""

    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    remark: str = ""
    """Why there is no list of tests, if there is none."""


@dataclass
class Row:
    """One file of tests on one driver."""

    name: str
    driver: str
    plain: int
    under: int
    lost: list[str]
    remark: str = ""


def run_file(name: str, driver: str | None) -> Outcome:
    """Run one file of tests; under Lissom if there is a driver."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "LISSOM"))}
    command = [sys.executable]
    if driver:
        environment["LISSOM_DRIVER"] = driver
        command += ["-m", "lissom"]
    with tempfile.TemporaryDirectory(prefix="lissom-stdlib-") as folder:
        results = Path(folder) / "results.xml"
        command += ["-m", "test", "--tempdir", folder, "--junit-xml", str(results)]
        for entry in known("endless"):
            command += [word for test in entry["tests"] for word in ("--ignore", test)]
        command.append(name)
        environment["TMPDIR"] = folder
        with (Path(folder) / "output").open("w+b") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                remark = f"exit code {process.wait(TIMEOUT)}"
            except subprocess.TimeoutExpired:
                remark = f"did not end within {TIMEOUT:.0f} s"
            # With all that it has left behind; a test may have blocked every other signal.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not results.exists():
                output.seek(0)
                last = output.read().decode(errors="replace").strip().rpartition("\n")[2]
                return Outcome(remark=f"{remark}: {last[:200]}")
        return read(results)


def read(results: Path) -> Outcome:
    """Sort the tests of a report in JUnit's format. Those that were skipped are in neither set."""
    outcome = Outcome()
    for case in ET.parse(results).iter("testcase"):
        children = {child.tag for child in case}
        name = case.get("name", "")
        if children & {"error", "failure"}:
            outcome.failed.add(name)
        elif "skipped" not in children:
            outcome.passed.add(name)
    # Subtests may fail in a test that is reported as passed.
    outcome.passed -= outcome.failed
    return outcome


def compare(name: str, drivers: Iterable[str]) -> list[Row]:
    """Run a file plain and on each driver."""
    plain = run_file(name, None)
    rows = []
    for driver in drivers:
        under = run_file(name, driver)
        lost = plain.passed - under.passed
        if lost:
            # Does it always pass plain?
            lost &= run_file(name, None).passed
        remark = plain.remark or under.remark
        rows.append(Row(name, driver, len(plain.passed), len(plain.passed) - len(lost), sorted(lost), remark))
    return rows


@functools.cache
def known(table: str) -> list[dict[str, list[str]]]:
    """Return the entries of one table of `losses.toml` that concern this version."""
    with (HERE / "losses.toml").open("rb") as file:
        entries = tomllib.load(file)[table]
    return [entry for entry in entries if MINOR in entry["versions"]]


def known_losses() -> set[str]:
    """Return the tests that are known to be lost."""
    return {test for entry in known("loss") for test in entry["tests"]}


def judge(rows: list[Row]) -> list[str]:
    """Return what is wrong with the losses: those that are not known, and known ones that are none."""
    losses = known_losses()
    wrong = [f"{row.name} on {row.driver}: {row.remark}" for row in rows if row.plain and row.remark]
    # A file that did not come to its end has lost all its tests, which says nothing about each.
    ended = [row for row in rows if not row.remark]
    wrong += [f"lost on {row.driver}: {test}" for row in ended for test in row.lost if test not in losses]
    lost = {test for row in rows for test in row.lost}
    files = tuple(f"test.{row.name}." for row in ended)
    for test in sorted(losses):
        if test.startswith(files) and test not in lost:
            wrong.append(f"no longer lost, take it out of losses.toml: {test}")
    return wrong


def show(rows: list[Row], report: Path | None) -> None:
    """Print the table, and write it as JSON if asked to."""
    width = max(len(row.name) for row in rows)
    print(f"\nCPython {MINOR}\n{'file':<{width}}  driver  plain  lissom  lost")
    for row in rows:
        print(f"{row.name:<{width}}  {row.driver:<6}  {row.plain:5}  {row.under:6}  {len(row.lost):4}  {row.remark}")
        for test in row.lost if not row.remark else []:
            print(f"    {test}")
    for driver in sorted({row.driver for row in rows}):
        mine = [row for row in rows if row.driver == driver]
        plain, lost = sum(row.plain for row in mine), sum(len(row.lost) for row in mine)
        print(f"{driver}: {lost} of {plain} lost, {len(mine)} files")
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Give a function that is told of each file that is done."""
    if not sys.stdout.isatty():
        yield lambda text: print(text, flush=True)
        return
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(MofNCompleteColumn(), TextColumn("files"), TimeElapsedColumn()) as bar:
        task = bar.add_task("", total=total)

        def done(text: str) -> None:
            bar.print(text)
            bar.advance(task)

        yield done


def exists(folder: Path, name: str) -> bool:
    """Whether there is such a file of tests, or a folder if the name does not end in ``.py``."""
    if name.endswith(".py"):
        return (folder / name).exists()
    path = folder.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def main() -> int:
    """Run what the arguments ask for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", action="append", choices=DRIVERS, help="on this driver only (repeatable)")
    parser.add_argument("--only", action="append", metavar="FILE", help="this file of tests only (repeatable)")
    parser.add_argument("--quick", action="store_true", help="the files that tell most, in two minutes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files at a time")
    parser.add_argument("--report", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    with (HERE / "files.toml").open("rb") as file:
        choice = tomllib.load(file)
    folder = Path(os.__file__).parent / "test"
    wanted = arguments.only or choice["quick" if arguments.quick else "files"]
    names = [name.removesuffix(".py") for name in wanted if exists(folder, name)]
    if not names:
        print(f"error: the test package in {folder} has none of: {' '.join(wanted)}", file=sys.stderr)
        return 2
    drivers = arguments.driver or DRIVERS
    rows: list[Row] = []
    with ThreadPoolExecutor(arguments.jobs) as pool, progress(len(names)) as tell:
        for future in as_completed([pool.submit(compare, name, drivers) for name in names]):
            found = future.result()
            rows += found
            tell(" ".join([found[0].name, *(f"{row.driver} {row.under}/{row.plain}" for row in found)]))
    order = {name: place for place, name in enumerate(names)}
    rows.sort(key=lambda row: (order[row.name], row.driver))
    show(rows, arguments.report)
    wrong = judge(rows)
    print("\n".join(["", *wrong]) if wrong else "\nAs losses.toml says.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
