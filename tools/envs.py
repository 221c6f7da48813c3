"""Virtual environments, the project's wheel in them, and stamps that make a second run quick.

Everything lies in ``.venv/<version>/`` and ``target/``. A stamp is a file that says what a result was made from; while
that is the same, the result is kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from steps import Failed, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from interpreters import Interpreter

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()

# What a wheel is made of; anything else may change without a new build.
_SOURCES = ("Cargo.toml", "Cargo.lock", "pyproject.toml", "rust-toolchain.toml", ".cargo", "README.rst", "python")
_CRATES = ("fiber", "sched", "proactor", "python")
_IGNORED = {"__pycache__", "tests", "benches", "examples"}


def requirements(groups: Iterable[str]) -> list[str]:
    """Return the pinned requirements of the named groups of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)["dependency-groups"]
    return [line for group in groups for line in table[group]]


class Environment:
    """The virtual environment of one interpreter."""

    def __init__(self, interpreter: Interpreter, donors: Sequence[Interpreter], *, name: str | None = None) -> None:
        self.interpreter = interpreter
        self.folder = ROOT / ".venv" / (name or interpreter.minor)
        self.python = self.folder / "bin" / "python"
        self._donors = donors

    def script(self, name: str) -> Path:
        """Return the path of a program that a requirement has installed."""
        return self.folder / "bin" / name

    def prepare(self, wanted: Sequence[str]) -> None:
        """Make the environment and bring the wanted requirements into it; quick when they are there."""
        with self._locked():
            self._create()
            note = self.folder / "requirements.stamp"
            have = note.read_text().splitlines() if note.exists() else []
            if set(wanted) <= set(have):
                return
            self.pip("install", "--quiet", *wanted)
            # What another command brought stays: the newest interpreter is asked for more by some of them.
            renewed = {_name(line) for line in wanted}
            note.write_text("\n".join(sorted({*wanted, *(line for line in have if _name(line) not in renewed)})))

    def pip(self, *arguments: str | Path) -> None:
        """Run pip in the environment."""
        run([self.python, "-m", "pip", "--disable-pip-version-check", *arguments], cwd=ROOT, quiet=True)

    def install_wheel(self, maturin: Path) -> None:
        """Build the extension module in release mode and install it; does nothing when no source has changed."""
        with self._locked():
            stamp = self.folder / "wheel.stamp"
            digest = hashlib.sha256("\0".join(_source_digests()).encode()).hexdigest()
            if _reads(stamp, digest):
                print("nothing has changed since the last build")
                return
            target = self.cargo_target
            wheels = target / "wheels"
            shutil.rmtree(wheels, ignore_errors=True)
            build: list[str | Path] = [
                maturin,
                "build",
                "--release",
                "--quiet",
                "--interpreter",
                self.python,
                "--out",
                wheels,
            ]
            run(build, cwd=ROOT, env={"CARGO_TARGET_DIR": str(target)})
            (wheel,) = wheels.glob("*.whl")
            self.pip("install", "--quiet", "--no-deps", "--force-reinstall", wheel)
            stamp.write_text(digest)
            print(f"installed {wheel.name}: {self.python.relative_to(ROOT)} -m lissom")

    @property
    def cargo_target(self) -> Path:
        """The build folder of this version: a shared one would be rebuilt at each change of interpreter."""
        return TARGET / f"py{self.interpreter.minor}"

    def _create(self) -> None:
        stamp = self.folder / "interpreter.stamp"
        if _reads(stamp, str(self.interpreter)) and self.python.exists():
            return
        base = self.interpreter.executable
        shutil.rmtree(self.folder, ignore_errors=True)
        if _quietly([base, "-m", "venv", self.folder]) and _quietly([self.python, "-m", "pip", "--version"]):
            stamp.write_text(str(self.interpreter))
            return
        # Debian keeps ensurepip in a package of its own; the pip of any interpreter at hand can put one here.
        shutil.rmtree(self.folder, ignore_errors=True)
        if not _quietly([base, "-m", "venv", "--without-pip", self.folder]):
            raise Failed(f"{base} cannot make virtual environments: install its venv module (Debian: python3-venv)")
        for donor in dict.fromkeys([self.interpreter, *self._donors]):
            if _quietly([donor.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "pip"]):
                stamp.write_text(str(self.interpreter))
                return
        raise Failed(f"no pip for {base}: install pip or the venv module (Debian: apt install python3-venv)")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep a second `make` out of this environment until the first is done with it."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f"{self.folder.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _name(requirement: str) -> str:
    return requirement.partition("==")[0]


def _reads(stamp: Path, text: str) -> bool:
    return stamp.exists() and stamp.read_text() == text


def _quietly(command: Sequence[str | Path]) -> bool:
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0


def _source_digests() -> list[str]:
    """Return name and digest of every file that goes into a wheel, and of the compiler that builds it."""
    tops = [ROOT / name for name in _SOURCES] + [ROOT / "crates" / name for name in _CRATES]
    files = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()]
    kept = sorted(path for path in files if not _IGNORED & set(path.relative_to(ROOT).parts))
    compiler = subprocess.run(["rustc", "-V"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return [compiler, *(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in kept)]
