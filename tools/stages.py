"""The checks that `make test` and `make lint` are made of, each as one or more steps."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from functools import partial
from typing import TYPE_CHECKING

from envs import ROOT, TARGET
from steps import Failed, Skipped, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from envs import Environment
    from steps import Command, Steps

# The crate that sees CPython needs an interpreter to be built at all; its tests are the Python ones.
_PYTHON_CRATE = "lissom-python"
# What valgrind is run over: the crates with unsafe code that need no interpreter.
_UNSAFE_CRATES = ("lissom-fiber", "lissom-proactor")


def require_tools() -> None:
    """Raise Failed, with what to do, when a tool is missing without which nothing can be built."""
    if not shutil.which("cargo"):
        raise Failed("cargo not found: install Rust from https://rustup.rs and open a new shell")
    if not shutil.which("cc"):
        raise Failed("no C compiler, which reads Python's headers: install one (Debian: apt install gcc libc6-dev)")
    wanted = re.search(r'rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text())
    answer = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=False)
    have = re.search(r"rustc ([\d.]+)", answer.stdout)
    if wanted and have and _numbers(have[1]) < _numbers(wanted[1]):
        raise Failed(f"rustc {have[1]} is too old, {wanted[1]} is needed: run `rustup update`")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def python_tests(steps: Steps, environment: Environment, rest: Sequence[str]) -> None:
    """Run pytest on one interpreter."""
    minor = environment.interpreter.minor
    _checked(steps, f"pytest {minor}", [str(environment.python), "-X", "dev", "-m", "pytest", *rest], f"build {minor}")


def stdlib(steps: Steps, environment: Environment, rest: Sequence[str]) -> None:
    """Run CPython's own tests with one interpreter, plain and under Lissom."""
    minor = environment.interpreter.minor
    report = TARGET / "stdlib" / f"{minor}.json"
    command = [str(environment.python), "tools/stdlib/stdlib.py", "--report", str(report), *rest]
    _checked(steps, f"stdlib {minor}", command, f"build {minor}")


def soak(steps: Steps, environment: Environment) -> None:
    """Mixed traffic on each driver, every byte checked: a minute in all."""
    minor = environment.interpreter.minor
    command = [str(environment.python), "tools/soak/soak.py", "--seconds", "20", "--connections", "300"]
    _checked(steps, "soak", command, f"build {minor}")


def rust_tests(steps: Steps) -> None:
    """Run the tests of all crates that need no interpreter, then the examples in their documentation."""
    workspace = ["--workspace", "--exclude", _PYTHON_CRATE]
    if shutil.which("cargo-nextest"):
        _checked(steps, "cargo test", ["cargo", "nextest", "run", "--no-tests", "pass", *workspace])
    else:
        _checked(steps, "cargo test", ["cargo", "test", "--lib", "--bins", "--tests", "--examples", *workspace])
    _checked(steps, "cargo test --doc", ["cargo", "test", "--doc", *workspace])


def quick_lints(steps: Steps, newest: Environment) -> None:
    """Check the formats and lints that need no build."""
    ruff = str(newest.script("ruff"))
    _checked(steps, "cargo fmt", ["cargo", "fmt", "--all", "--check"])
    _checked(steps, "ruff check", [ruff, "check", "."])
    _checked(steps, "ruff format", [ruff, "format", "--check", "."])


def loom(steps: Steps) -> None:
    """Try all interleavings of the lock-free parts; a build folder of its own, as the flag rebuilds everything."""
    env = {"RUSTFLAGS": "--cfg loom", "CARGO_TARGET_DIR": str(TARGET / "loom")}
    _checked(steps, "loom", ["cargo", "test", "-p", "lissom-proactor", "--test", "loom", "--release"], env=env)


def slow_lints(steps: Steps, environments: Sequence[Environment], newest: Environment) -> None:
    """Check clippy (for every interpreter: their versions choose the code), documentation comments, types and stubs."""
    clippy = ["cargo", "clippy", "--all-targets"]
    deny = ["--", "-D", "warnings"]
    _checked(steps, "clippy", [*clippy, "--workspace", "--exclude", _PYTHON_CRATE, *deny])
    for environment in reversed(environments):
        env = {"PYO3_PYTHON": str(environment.python), "CARGO_TARGET_DIR": str(environment.cargo_target)}
        _checked(steps, f"clippy {environment.interpreter.minor}", [*clippy, "-p", _PYTHON_CRATE, *deny], env=env)
    rustdoc = ["cargo", "doc", "--workspace", "--exclude", _PYTHON_CRATE, "--no-deps"]
    _checked(steps, "cargo doc", rustdoc, env={"RUSTDOCFLAGS": "-D warnings"})
    built = f"build {newest.interpreter.minor}"
    python = str(newest.python)
    _checked(steps, "mypy", [python, "-m", "mypy", "python/lissom", "tools"])
    # Types are checked as of the oldest version; what newer ones give every dataclass and named tuple is allowed.
    allowed = ["--allowlist", "tools/stubtest-allowlist.txt", "--ignore-unused-allowlist"]
    stubtest = [python, "-m", "mypy.stubtest", "lissom", "--mypy-config-file", "pyproject.toml", *allowed]
    _checked(steps, "stubtest", stubtest, built)


def docs(steps: Steps, newest: Environment) -> None:
    """Build the documentation; a warning is an error."""
    sphinx = [str(newest.python), "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html"]
    _checked(steps, "sphinx", sphinx, f"build {newest.interpreter.minor}")


def valgrind(steps: Steps) -> None:
    """Run the tests of the crates with unsafe code under valgrind's memcheck."""
    triple = f"{platform.machine()}-unknown-linux-gnu".upper().replace("-", "_")

    def memcheck(crate: str) -> None:
        program = shutil.which("valgrind")
        if not program:
            raise Skipped("valgrind not found (Debian: apt install valgrind)")
        leaks = "--leak-check=full --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect"
        runner = f"{program} -q --error-exitcode=99 --child-silent-after-fork=yes --num-callers=60 {leaks}"
        runner += f" --suppressions={ROOT / 'tools' / 'valgrind.supp'}"
        # One thread, because in a child of fork() what other threads' stacks refer to counts as leaked.
        command = ["cargo", "test", "-p", crate, "--lib", "--tests", "--no-fail-fast", "--", "--test-threads=1"]
        run(command, cwd=ROOT, env={f"CARGO_TARGET_{triple}_RUNNER": runner})

    for crate in _UNSAFE_CRATES:
        steps.step(f"valgrind {crate}", partial(memcheck, crate))


def _checked(steps: Steps, name: str, command: Command, *needs: str, env: Mapping[str, str] | None = None) -> None:
    """Add a step that is one command run at the root of the repository."""
    steps.step(name, partial(run, command, cwd=ROOT, env=env), needs)
