"""The demo's result as a table and as a plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from benches.loadtool import Report


@dataclass(frozen=True)
class Result:
    """One server under both loads."""

    name: str
    connections: int
    steady: Report
    flat_out: Report
    limit: str
    """What stopped a larger number of connections; empty if nothing did."""

    @property
    def errors(self) -> int:
        """Errors under both loads."""
        return int(self.steady["errors_total"] + self.flat_out["errors_total"])


def seconds(micros: float) -> str:
    """Microseconds as text in the unit that suits them."""
    if micros < 1e3:
        return f"{micros:.0f} µs"
    return f"{micros / 1e3:.1f} ms" if micros < 1e6 else f"{micros / 1e6:.1f} s"


def kinds(report: Report) -> str:
    """The errors of a report by kind, as text."""
    return ", ".join(f"{count} {kind}" for kind, count in report["errors"].items())


def table(results: list[Result], rate: float) -> Table:
    """The table at the end of the demo."""
    result = Table(title="http.server, unmodified: the same work by both", title_justify="left")
    result.add_column("")
    for one in results:
        result.add_column(one.name, justify="right")

    def row(name: str, values: list[str], *, section: bool = False) -> None:
        result.add_row(name, *values, end_section=section)

    row("simultaneous connections", [f"{one.connections:,}" for one in results])
    row("all open after", [f"{one.flat_out['connections']['open_seconds']:.1f} s" for one in results])
    memory = [one.flat_out["server"]["memory_per_connection"] / 1024 for one in results]
    row("server memory per connection", [f"{value:.1f} KiB" for value in memory], section=True)
    flat = [one.flat_out for one in results]
    row("flat out: requests/s", [f"{one['requests']['per_second']:,.0f}" for one in flat])
    row("flat out: p50 / p99", [_percentiles(one) for one in flat])
    cpu = [one["server"]["cpu_us_per_request"] for one in flat]
    row("flat out: server CPU per request", [seconds(value) for value in cpu], section=True)
    steady = [one.steady for one in results]
    row(f"at {rate:,.0f}/s: requests/s", [f"{one['requests']['per_second']:,.0f}" for one in steady])
    row(f"at {rate:,.0f}/s: p50 / p99", [_percentiles(one) for one in steady])
    cpu = [one["server"]["cpu_us_per_request"] for one in steady]
    row(f"at {rate:,.0f}/s: server CPU per request", [seconds(value) for value in cpu], section=True)
    row("errors", [str(one.errors) for one in results])
    return result


def _percentiles(report: Report) -> str:
    latency = report["latency_us"]
    return f"{seconds(latency['p50'])} / {seconds(latency['p99'])}"


def plot(results: list[Result], path: Path) -> None:
    """Draw what the table says as four bar charts into the PNG file ``path``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = [
        ("Requests per second, flat out\n(more is better)", "{:,.0f}", _throughput),
        ("Server CPU per request, flat out\n(µs, less is better)", "{:,.0f}", _cpu),
        ("p99 latency, flat out\n(ms, less is better)", "{:,.0f}", _p99),
        ("Server memory per connection\n(KiB, less is better)", "{:,.1f}", _memory),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(10, 5.2), layout="constrained")
    names = [f"{one.name}\n{one.connections:,} connections" for one in results]
    colours = ["#1a7f5a", "#8a8f98"]
    for axis, (title, form, value) in zip(axes.flat, panels, strict=True):
        values = [value(one) for one in results]
        bars = axis.barh(names, values, color=colours[: len(results)], height=0.55)
        axis.bar_label(bars, labels=[form.format(value) for value in values], padding=4)
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.18)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    figure.suptitle("Python's http.server, unmodified, on one core: keep-alive connections asking for files")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _throughput(result: Result) -> float:
    return float(result.flat_out["requests"]["per_second"])


def _p99(result: Result) -> float:
    return float(result.flat_out["latency_us"]["p99"] / 1e3)


def _cpu(result: Result) -> float:
    return float(result.flat_out["server"]["cpu_us_per_request"])


def _memory(result: Result) -> float:
    return float(result.flat_out["server"]["memory_per_connection"] / 1024)
