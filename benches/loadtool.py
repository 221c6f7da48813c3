"""Run this workspace's load tool, ``lissom-load``, and follow its progress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent

Report = dict[str, Any]
"""The tool's report; ``crates/load/src/report.rs`` describes the fields."""


class LoadError(Exception):
    """The load tool could not make the run; the text is what it said."""


@dataclass(frozen=True)
class Progress:
    """One line of the tool's progress."""

    phase: str
    elapsed: float
    open: int
    connections: int
    completed: int
    errors: int
    fraction: float


def build() -> tuple[Path, Path]:
    """Build the tools if they are not up to date; return the paths of lissom-load and native-echo.

    ``$LISSOM_LOAD`` names a folder with ready-made ones.
    """
    if given := os.environ.get("LISSOM_LOAD"):
        folder = Path(given)
    else:
        command = ["cargo", "build", "--quiet", "--release", "--package", "lissom-load"]
        subprocess.run(command, cwd=ROOT, check=True)
        folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    tools = folder / "lissom-load", folder / "native-echo"
    for tool in tools:
        if not tool.is_file():
            raise LoadError(f"{tool} is missing: build it with cargo build --release -p lissom-load")
    return tools


def run(
    tool: Path,
    arguments: Sequence[str],
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Run the tool and return its report; errors of single requests are counted in it.

    :raises LoadError: when the tool could not make the run at all (exit code 2).
    """
    with tempfile.TemporaryDirectory(prefix="lissom-load-") as folder:
        report = Path(folder) / "report.json"
        command = [str(tool), *arguments, "--json", str(report), "--progress"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said: list[str] = []
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if not line.startswith("{"):
                    said.append(line.strip())
                elif on_progress is not None:
                    on_progress(Progress(**json.loads(line)))
            process.wait()
        finally:
            # On an exception, Ctrl-C among them, the tool must not outlive this call.
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode not in (0, 1):
            raise LoadError("; ".join(said) or f"lissom-load ended with {process.returncode}")
        result: Report = json.loads(report.read_text())
    return result


def cpus() -> tuple[int | None, int | None]:
    """Choose a CPU for the server and another for the clients; ``None`` twice if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def raise_open_files(wanted: int) -> int:
    """Raise this process's limit on open files, which its children inherit; return what it is then."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


if sys.platform != "linux":
    raise SystemExit("the load tool needs Linux (epoll)")
