"""Measure Lissom and its peers in one run on one machine, and render the report.

Every case of every peer runs in a fresh process, the peers in turn (A B C, A B C ...), so that a change in
the machine's speed meets all of them alike. The report shows medians with the smallest and the largest value.

Raw figures go to ``build/bench/results.json``, the report to ``docs/benchmarks.rst`` with its plots in
``docs/_static/``. A peer that is not installed or fails is named in the report.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import loadtool
import machine
import render
from cases import CASES, Case
from measure import FailedError, NotInstalledError, Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "bench" / "results.json"
OPEN_FILES = 25_000


def main() -> int:
    """Measure and render; return the exit code."""
    options = parse_arguments()
    if not options.render_only:
        measure(options)
    results = json.loads(RESULTS.read_text())
    report = render.render(results, options.docs)
    print(f"report: {report}")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case and peer [%(default)s]")
    parser.add_argument("--only", action="append", metavar="CASE", help=f"{', '.join(names)}, or a start of one")
    parser.add_argument("--peer", action="append", metavar="PEER", help="only these peers")
    parser.add_argument("--render-only", action="store_true", help="render the last results again")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the report")
    options = parser.parse_args()
    options.cases = [
        case for case in CASES if not options.only or any(case.name.startswith(start) for start in options.only)
    ]
    if not options.cases:
        parser.error(f"--only: no such case; there are {', '.join(names)}")
    if options.rounds < 1:
        parser.error("--rounds: expected a number above 0")
    if options.render_only and not RESULTS.is_file():
        parser.error(f"--render-only: there is no {RESULTS} yet")
    return options


def measure(options: argparse.Namespace) -> None:
    """Make all runs and write the raw results."""
    console = Console()
    loadtool.raise_open_files(OPEN_FILES)
    load, native_echo = loadtool.build()
    server_cpu, client_cpu = loadtool.cpus()
    seconds = 0.1 if options.quick else 0.5
    runner = Runner(load, native_echo, seconds, server_cpu, client_cpu)
    rounds = 1 if options.quick else options.rounds
    runs: list[dict[str, object]] = []
    skipped: dict[str, str] = {}
    failed: list[dict[str, object]] = []

    def one(case: Case, peer: str, number: int) -> None:
        if peer in skipped:
            return
        try:
            figures = runner.run(case, peer)
        except NotInstalledError as error:
            skipped[peer] = f"{error} is not installed"
            console.print(f"[yellow]skipped:[/] {peer}, {skipped[peer]}")
        except FailedError as error:
            failed.append({"case": case.name, "peer": peer, "round": number, "why": str(error)})
            console.print(f"[red]failed:[/] {case.name}, {peer}: {error}")
        else:
            runs.append({"case": case.name, "peer": peer, "round": number, **figures})
            shown = f"{figures[case.figure]:,.1f} {case.unit}"
            console.print(f"{case.name:<14} {peer:<18} {shown:>16}", highlight=False)

    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        jobs = [
            (case, [peer for peer in case.peers if not options.peer or peer in options.peer]) for case in options.cases
        ]
        task = progress.add_task("", total=rounds * sum(len(peers) for _, peers in jobs))
        for number in range(rounds):
            for case, peers in jobs:
                for peer in peers:
                    progress.update(task, description=f"{case.name}, {peer}")
                    one(case, peer, number)
                    progress.advance(task)
    results = {
        "machine": machine.describe(),
        "rounds": rounds,
        "seconds": seconds,
        "pinned": server_cpu is not None,
        "runs": runs,
        "skipped": skipped,
        "failed": failed,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(main())
