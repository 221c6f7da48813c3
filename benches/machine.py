"""What a report has to say of the machine and the versions that its figures come from."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("lissom", "gevent", "greenlet", "uvloop")


def describe() -> dict[str, str]:
    """Return name and value of everything that a reader needs to judge or repeat the figures."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "benches/run.py", *sys.argv[1:]]),
        "commit": _output("git", "describe", "--always", "--dirty") or "unknown",
        "cpu": f"{_cpu()}, {os.cpu_count()} CPUs",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "rustc": _output("rustc", "--version") or "unknown",
        **versions,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _output(*command: str) -> str:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
