"""Finds the CPython interpreters to build for and test with: one that works for each supported minor version."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORTED = ((3, 11), (3, 12), (3, 13), (3, 14))

# Run in the candidate. The base executable is asked for, so that an active virtual environment is looked through.
_PROBE = """
import json, os, sys, sysconfig
include = sysconfig.get_path("include")
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": sys.version_info[:3],
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "headers": all(os.path.exists(os.path.join(include, name)) for name in ("Python.h", "internal/pycore_frame.h")),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""


class Unusable(Exception):
    """An interpreter cannot be used; the text is one line that says why and what to do."""


@dataclass(frozen=True)
class Interpreter:
    """A CPython that an extension module can be built for."""

    version: tuple[int, int, int]
    executable: Path

    @property
    def minor(self) -> str:
        """The minor version as people write it, such as ``3.13``."""
        return f"{self.version[0]}.{self.version[1]}"

    def __str__(self) -> str:
        return f"CPython {'.'.join(map(str, self.version))} ({self.executable})"


@dataclass(frozen=True)
class Search:
    """What a search found: interpreters, oldest first, and for each version without one the reason."""

    found: dict[str, Interpreter]
    missing: dict[str, str]

    def report(self) -> str:
        """Say in a line each which interpreters are used and which versions are missing."""
        lines = [f"  {minor}: {interpreter}" for minor, interpreter in self.found.items()]
        lines += [f"  {minor}: missing ({reason})" for minor, reason in self.missing.items()]
        return "\n".join(["Interpreters:", *lines])


def probe(path: str | Path) -> Interpreter:
    """Return the interpreter at `path`; raises Unusable with the reason when it cannot be built for."""
    try:
        answer = subprocess.run(
            [path, "-I", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        facts = json.loads(answer.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unusable(f"{path} does not run: {error}") from None
    except json.JSONDecodeError:
        lines = answer.stderr.strip().splitlines()
        raise Unusable(f"{path} does not run: {lines[0] if lines else f'exit code {answer.returncode}'}") from None
    version = tuple(facts["version"])
    minor = f"{version[0]}.{version[1]}"
    if facts["implementation"] != "cpython":
        raise Unusable(f"{path} is {facts['implementation']}, not CPython")
    if version[:2] not in SUPPORTED:
        raise Unusable(f"{path} is CPython {minor}; supported are {supported_text()}")
    if facts["free_threaded"]:
        raise Unusable(f"{path} is a free-threaded build, which is not supported; use the default build")
    if not facts["headers"]:
        raise Unusable(
            f"{path} has no headers: install its development package (Debian: apt install python{minor}-dev)"
        )
    return Interpreter(version, Path(facts["executable"]))


def supported_text() -> str:
    """Return the supported versions for messages: ``3.11, 3.12, ...``."""
    return ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)


def find() -> Search:
    """Search `$LISSOM_PYTHONS`, the path and the pyenv versions, in this order; the first that works is taken.

    Raises Unusable when an interpreter named in `$LISSOM_PYTHONS` does not work: a wish that is not met is an error.
    """
    found: dict[str, Interpreter] = {}
    for named in _named():
        interpreter = probe(named)
        found.setdefault(interpreter.minor, interpreter)
    missing: dict[str, str] = {}
    for major, minor in SUPPORTED:
        name = f"{major}.{minor}"
        if name in found:
            continue
        reasons: list[str] = []
        for path in _candidates(name):
            try:
                interpreter = probe(path)
            except Unusable as error:
                reasons.append(str(error))
            else:
                if interpreter.minor == name:
                    found[name] = interpreter
                    break
        else:
            # A shim of a version manager that has no such version is noise beside an interpreter without headers.
            missing[name] = next((r for r in reasons if "headers" in r), "not on the path, not under pyenv")
    return Search({name: found[name] for name in sorted(found, key=_order)}, missing)


def _order(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split(".")))


def _named() -> list[str]:
    return [part for part in re.split(r"[:\s]+", os.environ.get("LISSOM_PYTHONS", "")) if part]


def _candidates(name: str) -> Iterator[Path]:
    """Yield the paths at which CPython `name` may lie: the whole path, then pyenv with the newest release first."""
    folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    for folder in dict.fromkeys(folders):
        for program in (f"python{name}", "python3"):
            path = folder / program
            # `python3` is asked for its version by the caller: it may be any.
            if os.access(path, os.X_OK):
                yield path
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    releases = [path for path in root.glob(f"versions/{name}.*") if re.fullmatch(r"[\d.]+", path.name)]
    for release in sorted(releases, key=lambda path: _order(path.name), reverse=True):
        yield release / "bin" / f"python{name}"
