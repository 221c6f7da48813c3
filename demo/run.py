"""Serve 10,000 keep-alive connections with the standard library's blocking HTTP server.

``http.server.ThreadingHTTPServer``, unmodified, serves this repository's files twice: under
``python -m lissom``, and on OS threads with as many connections as those can carry. Each is put
under two loads: all connections ask as fast as they are answered ("flat out"), and a fixed number
of requests per second over all connections, most of them idle ("steady").

The results go to the terminal and to ``build/demo/``: ``table.txt``, ``plot.png``, ``results.json``
and the servers' logs. Exits with 1 if a run under Lissom had errors, with 2 if the demo cannot run.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benches import loadtool  # noqa: E402
from demo.server import Server, ServerError  # noqa: E402
from demo.show import Result, kinds, plot, table  # noqa: E402

OUTPUT = ROOT / "build" / "demo"
BIGGEST_FILE = 64 * 1024
MOST_FILES = 64
SERVER = ["-m", "http.server"]
SERVED = {".rs", ".py", ".rst", ".toml"}
SKIPPED = {"target", "build", "__pycache__"}
STEP_DOWN = 0.7
FEWEST = 100

# http.server listens with a queue of 5. A burst beyond it would be answered with SYN cookies, and those
# connections would look open to the client without the server knowing of them. So no more than that are
# being opened at one time, and one counts as open when a first request on it was answered.
OPENING = ["--prime", "--pending", "5"]
# http.server sends head and body of an answer in two writes, with Nagle's algorithm on.
CLIENT = ["--quickack"]


def main() -> int:
    """Run the demo; return the exit code."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    try:
        return Demo(options, console).run()
    except (loadtool.LoadError, ServerError, subprocess.CalledProcessError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; the servers have been stopped")
        return 130


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=10_000, help="simultaneous ones [%(default)s]")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load [%(default)s]")
    parser.add_argument("--rate", type=float, default=1_000.0, help="of the steady load, per second [%(default)s]")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the servers [this one]")
    parser.add_argument("--only", choices=["lissom", "threads"], help="run only one of the two servers")
    parser.add_argument("--quick", action="store_true", help="1,000 connections, 1 second")
    options = parser.parse_args()
    if options.quick:
        options.connections, options.seconds = min(options.connections, 1_000), min(options.seconds, 1.0)
    if options.connections < 1 or options.seconds <= 0 or options.rate <= 0:
        parser.error("--connections, --seconds and --rate: expected numbers above 0")
    return options


class Demo:
    """The runs, one after the other."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.options = options
        self.console = console
        self.server_cpu, self.client_cpu = loadtool.cpus()
        self.connections: int = options.connections
        self.tool = Path()
        self.paths = ""

    def run(self) -> int:
        """Run both servers, show the results and return the exit code."""
        self.check_system()
        OUTPUT.mkdir(parents=True, exist_ok=True)
        self.tool, _ = loadtool.build()
        python = self.options.python
        results = []
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as paths:
            paths.write("\n".join(repository_files()))
            paths.flush()
            self.paths = paths.name
            if self.options.only != "threads":
                results.append(self.measure("lissom", [python, "-m", "lissom", *SERVER], self.connections))
            if self.options.only != "lissom":
                results.append(self.as_many_as_possible("OS threads", [python, *SERVER]))
        self.show(results)
        failed = [one for one in results if one.name == "lissom" and (one.errors or one.limit)]
        for one in failed:
            self.console.print(f"[red]lissom had errors:[/] {one.limit}")
        return 1 if failed else 0

    def check_system(self) -> None:
        """Make room for the open files of the servers, or settle for fewer connections."""
        # A connection may have the file open that it is being sent.
        wanted = 2 * self.connections + 100
        allowed = loadtool.raise_open_files(wanted)
        fitting = min(self.connections, (allowed - 100) if allowed < wanted else self.connections)
        if fitting < self.connections:
            self.console.print(
                f"[yellow]only {fitting:,} connections: the hard limit on open files is {allowed:,}; "
                f"`ulimit -Hn {wanted}` as root raises it[/]"
            )
            self.connections = fitting
        if self.options.only != "threads":
            check = [self.options.python, "-c", "import lissom"]
            done = subprocess.run(check, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no output"])[-1]
                raise ServerError(f"{self.options.python} cannot import lissom ({last}); see `make build`")

    def as_many_as_possible(self, name: str, command: list[str]) -> Result:
        """Measure with all connections, or with the largest number that works; say what did not."""
        connections, limit = self.connections, ""
        while True:
            result = self.measure(name, command, connections)
            if not result.limit:
                return Result(name, connections, result.steady, result.flat_out, limit)
            limit = limit or f"{connections:,} connections: {result.limit}"
            self.console.print(f"{name} cannot carry {connections:,} connections: {result.limit}")
            fewer = int(connections * STEP_DOWN)
            if fewer < FEWEST:
                return result
            connections = fewer

    def measure(self, name: str, command: list[str], connections: int) -> Result:
        """Put a fresh server under each load; ``limit`` of the result says why it failed, if it did."""
        loads = {"steady": ["--rate", str(self.options.rate)], "flat out": []}
        reports, limit = {}, ""
        for load, arguments in loads.items():
            log = OUTPUT / f"{name.replace(' ', '-')}-{load.replace(' ', '-')}.log"
            with Server(command, ROOT, log, self.server_cpu) as server:
                title = f"{name}, {load}"
                report = reports[load] = self.load(server, title, connections, arguments)
                opened = report["connections"]["opened"]
                if report["errors_total"] or opened < connections:
                    why = server.last_error()
                    limit = f"{opened:,} opened, errors: {kinds(report)}" + (f" ({why})" if why else "")
            if limit:
                break
        return Result(name, connections, reports["steady"], reports.get("flat out", reports["steady"]), limit)

    def load(self, server: Server, title: str, connections: int, arguments: list[str]) -> loadtool.Report:
        """Run the load tool against ``server`` and draw its progress."""
        seconds = self.options.seconds
        common = [
            *("--port", str(server.port), "--server-pid", str(server.pid), "--paths-from", self.paths),
            *("--connections", str(connections), "--duration", str(seconds)),
            *("--settle", "1", "--warmup", str(min(1.0, seconds / 2))),
            *(() if self.client_cpu is None else ("--cpu", str(self.client_cpu))),
        ]
        columns = (
            TextColumn("{task.description:<33}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            opening = progress.add_task(f"{title}: opening", total=connections, note="")
            asking = progress.add_task(f"{title}: requests", total=1.0, note="", visible=False, start=False)

            def on_progress(line: loadtool.Progress) -> None:
                progress.update(opening, completed=line.open, note=f"{line.open:,} open")
                if line.phase == "open":
                    return
                if line.phase in ("measure", "drain", "done"):
                    progress.start_task(asking)
                    part = line.fraction if line.phase == "measure" else 1.0
                    note = f"{line.completed:,} done, {line.errors} errors"
                    note += ", waiting for the last" if line.phase == "drain" else ""
                    progress.update(asking, completed=part, note=note, visible=True)
                progress.stop_task(opening)

            return loadtool.run(self.tool, [*common, *OPENING, *CLIENT, *arguments], on_progress=on_progress)

    def show(self, results: list[Result]) -> None:
        """Print the table; write it, the plot and the raw figures to files."""
        recorder = Console(width=100, file=io.StringIO(), record=True)
        for console in (self.console, recorder):
            console.print()
            console.print(table(results, self.options.rate))
            for one in results:
                if one.limit:
                    console.print(f"{one.name} stopped at {one.connections:,}. {one.limit}", markup=False)
            console.print(
                "Server and clients have one core each. Memory is VmRSS and VmPTE; kernel stacks (16 KiB for "
                "each OS thread) come on top.",
                style="dim",
            )
        (OUTPUT / "table.txt").write_text(recorder.export_text())
        (OUTPUT / "results.json").write_text(json.dumps([asdict(one) for one in results], indent=2))
        plot(results, OUTPUT / "plot.png")
        self.console.print(f"Plot, table and logs: {OUTPUT}")


def repository_files() -> list[str]:
    """Paths of the repository's text files, as a client would ask for them."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            plain = path.is_file() and not name.startswith(".") and " " not in name
            if plain and path.suffix in {".rs", ".py", ".rst", ".toml"} and path.stat().st_size <= BIGGEST_FILE:
                found.append("/" + path.relative_to(ROOT).as_posix())
    # Evenly over the whole repository.
    step = max(1, len(found) // MOST_FILES)
    return found[::step][:MOST_FILES]


if __name__ == "__main__":
    sys.exit(main())
