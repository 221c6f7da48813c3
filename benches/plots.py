"""The plots of the report."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from cases import CASES, PEERS, Case

mpl.use("Agg")

from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

OURS, OTHERS, LIMIT = "#1a7f5a", "#8a8f98", "#3b6ea8"
COLUMNS = 2
CUT = 4.0


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write ``bench-micro.png``, ``bench-echo.png`` and ``bench-http.png`` into ``folder``."""
    for group, title in (
        ("micro", "Micro benchmarks: shorter is better"),
        ("echo", "TCP echo of 1 KiB: server CPU per message, shorter is better"),
        ("http", "http.server: server CPU per request, shorter is better"),
    ):
        cases = [case for case in CASES if case.group == group]
        _panels(results, cases, title, folder / f"bench-{group}.png")


def _panels(results: dict[str, Any], cases: Sequence[Case], title: str, path: Path) -> None:
    """One panel of bars for each case."""
    lines = -(-len(cases) // COLUMNS)
    tallest = max(len(case.peers) for case in cases)
    size = (11, lines * (0.7 + 0.27 * tallest) + 0.4)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=size, layout="constrained", squeeze=False)
    for axis, case in zip(axes.flat, cases, strict=False):
        _bars(axis, results, case)
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axis: Axes, results: dict[str, Any], case: Case) -> None:
    """Medians as bars, smallest and largest value as whiskers."""
    found = {
        peer: [run[case.figure] for run in results["runs"] if run["case"] == case.name and run["peer"] == peer]
        for peer in case.peers
    }
    found = {peer: values for peer, values in found.items() if values}
    axis.set_title(f"{case.title.replace('``', '')} ({case.unit})", fontsize=8.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    if not found:
        axis.text(0.5, 0.5, "not measured in this run", ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    medians = [statistics.median(values) for values in found.values()]
    below = [median - min(values) for median, values in zip(medians, found.values(), strict=True)]
    above = [max(values) - median for median, values in zip(medians, found.values(), strict=True)]
    names = [PEERS[peer].replace("``", "") for peer in found]
    # A bar far longer than the others is cut, or theirs could not be told apart.
    cap = CUT * statistics.median(medians)
    bars = axis.barh(
        names,
        [min(median, cap) for median in medians],
        xerr=[
            [0 if median > cap else low for median, low in zip(medians, below, strict=True)],
            [0 if median > cap else high for median, high in zip(medians, above, strict=True)],
        ],
        color=[_colour(peer) for peer in found],
        error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
        height=0.62,
    )
    labels = [
        (f"{median:,.0f}" if median >= 100 else f"{median:.1f}") + (" (bar cut)" if median > cap else "")
        for median in medians
    ]
    axis.bar_label(bars, labels=labels, padding=4, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.2)


def _colour(peer: str) -> str:
    if peer.startswith("lissom"):
        return OURS
    return LIMIT if peer == "native" else OTHERS
