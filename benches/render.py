"""The report: reStructuredText from a template, and its plots."""

from __future__ import annotations

import statistics
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import plots
from cases import CASES, PEERS, Case

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).resolve().parent
BASE = "lissom"
MANY = 1_000
"""With as many connections, the memory of one can be told from noise."""

Results = dict[str, Any]


def render(results: Results, docs: Path) -> Path:
    """Write ``benchmarks.rst`` and its plots below ``docs``; return the report's path."""
    static = docs / "_static"
    static.mkdir(parents=True, exist_ok=True)
    plots.draw(results, static)
    notes = HERE / "notes.rst"
    rounds = results["rounds"]
    text = Template((HERE / "report.rst.in").read_text()).substitute(
        summary=_summary(results),
        rounds="once" if rounds == 1 else f"{rounds} times",
        pinning=(
            "Servers and micro benchmarks ran on one core, the clients on another."
            if results["pinned"]
            else "There was only one core, which servers and clients shared."
        ),
        machine="\n".join(_row([name, f"``{value}``"]) for name, value in results["machine"].items()),
        gaps=_gaps(results),
        notes=notes.read_text() if notes.is_file() else "",
        **{group: _group(results, group) for group in ("micro", "echo", "http")},
    )
    report = docs / "benchmarks.rst"
    report.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    return report


def values(results: Results, case: Case, peer: str, figure: str) -> list[float]:
    """All values of one figure, in the order of the rounds."""
    return [
        run[figure] for run in results["runs"] if run["case"] == case.name and run["peer"] == peer and figure in run
    ]


def _row(cells: Sequence[str]) -> str:
    return "\n".join(f"   {'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(cells))


def _line(cells: Sequence[str]) -> str:
    return "   " + ", ".join(f'"{cell}"' for cell in cells)


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _summary(results: Results) -> str:
    """A table of the figures to reach and what was reached."""
    rows = []
    for case in CASES:
        found = values(results, case, BASE, case.figure)
        if case.target is None or not found:
            continue
        median = statistics.median(found)
        verdict = "yes" if median <= case.target else "**no**"
        rows.append(
            _row([case.title, f"{_number(median)} {case.unit}", f"{_number(case.target)} {case.unit}", verdict])
        )
    rows += _growth(results)
    if not rows:
        return "This run has no figures of Lissom."
    head = _row(["case", "Lissom", "to reach", "reached"])
    options = "   :header-rows: 1\n   :widths: 50 20 20 10"
    return "\n".join([".. list-table:: Figures to reach", options, "", head, *rows])


def _growth(results: Results) -> list[str]:
    """The cost of a message with 10,000 connections against that with 64."""
    cases = {case.name: case for case in CASES}
    few, many = (values(results, cases[name], BASE, "cpu_us") for name in ("echo-64", "echo-10000"))
    if not few or not many:
        return []
    ratio = statistics.median(many) / statistics.median(few)
    title = "TCP echo: CPU per message with 10,000 connections, against 64"
    return [_row([title, f"{ratio:.2f} times", "1.30 times", "yes" if ratio <= 1.3 else "**no**"])]


def _gaps(results: Results) -> str:
    """What is missing from the run, and why."""
    lines = [f"* {PEERS.get(peer, peer)}: skipped, {why}." for peer, why in results["skipped"].items()]
    lines += [
        f"* {run['case']}, {PEERS.get(run['peer'], run['peer'])}, round {run['round'] + 1}: failed, {run['why']}"
        for run in results["failed"]
    ]
    ran = {run["case"] for run in results["runs"]}
    if missing := [f"``{case.name}``" for case in CASES if case.name not in ran]:
        lines.append(f"* Not measured in this run: {', '.join(missing)}.")
    return "\n".join(["Missing from this run:", "", *lines]) if lines else ""


def _group(results: Results, group: str) -> str:
    tables = [_table(results, case) for case in CASES if case.group == group]
    return "\n\n".join(table for table in tables if table) or "Not measured in this run."


def _table(results: Results, case: Case) -> str:
    """The table of one case, and its note; the empty string if it was not measured."""
    served = case.group != "micro"
    base = values(results, case, BASE, case.figure)
    rows = []
    for peer in case.peers:
        found = values(results, case, peer, case.figure)
        if not found:
            continue
        median = statistics.median(found)
        ratio = f"{median / statistics.median(base):.2f}" if base else "n/a"
        cells = [PEERS[peer], _number(median), f"{_number(min(found))} to {_number(max(found))}", ratio]
        if served:
            figures = ("kernel_us", "per_second", "p50_us", "p99_us")
            cells += [_number(statistics.median(values(results, case, peer, name))) for name in figures]
            cells.append(str(sum(values(results, case, peer, "errors"))))
            if case.size >= MANY:
                cells.append(_number(statistics.median(values(results, case, peer, "memory")) / 1024))
        rows.append(_line(cells))
    if not rows:
        return ""
    head = ["peer", f"median, {case.unit}", "smallest to largest", "ratio"]
    if served:
        head += ["of that the kernel", "per second", "p50, µs", "p99, µs", "errors"]
        if case.size >= MANY:
            head.append("KiB each")
    table = [f".. csv-table:: {case.title}", f"   :header: {_line(head).strip()}", "", *rows]
    return "\n".join([*table, "", case.note] if case.note else table)
