"""The commands behind the Makefile: test, lint, build, docs, demo, bench, format.

Runs on any CPython 3.11 or newer with nothing but its standard library; see CONTRIBUTING.rst.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import interpreters
import stages
from envs import ROOT, Environment, requirements
from interpreters import Search, Unusable
from steps import Failed, Steps, run

if TYPE_CHECKING:
    from collections.abc import Callable

# What the environment of the newest interpreter holds beside the test requirements.
NEWEST_GROUPS = ("test", "build", "lint", "docs")


class Project:
    """The interpreters to work with, their environments, and the steps of one command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        search = interpreters.find()
        if arguments.python:
            chosen = {minor: found for minor, found in search.found.items() if minor in arguments.python}
            if unknown := set(arguments.python) - set(chosen):
                raise Unusable(f"no usable CPython {', '.join(sorted(unknown))}\n{search.report()}")
            search = Search(chosen, {})
        if not search.found:
            raise Unusable(
                f"no CPython with headers found; supported are {interpreters.supported_text()}: install one "
                f"(Debian: apt install python3-dev python3-venv) or name its path in LISSOM_PYTHONS\n{search.report()}"
            )
        self.search = search
        donors = list(search.found.values())
        self.environments = [Environment(interpreter, donors) for interpreter in donors]
        self.newest = self.environments[-1]
        self.rest: list[str] = arguments.rest
        self.steps = Steps(arguments.only)

    def build(self, environment: Environment) -> None:
        """Add the steps that bring the wheel into `environment`."""
        minor = environment.interpreter.minor
        # maturin lives in the newest environment and builds for all.
        self.prepare_newest()
        if environment is not self.newest:
            environment.prepare(requirements(["test"]))
        maturin = self.newest.script("maturin")
        self.steps.step(f"build {minor}", lambda: environment.install_wheel(maturin))

    def prepare_newest(self) -> None:
        """Bring all tools into the newest environment."""
        self.newest.prepare(requirements(NEWEST_GROUPS))


def test(project: Project) -> None:
    """Build for every interpreter found and run all tests and checks, what tells most first."""
    print(project.search.report(), flush=True)
    steps, newest = project.steps, project.newest
    project.prepare_newest()
    stages.quick_lints(steps, newest)
    for number, environment in enumerate(reversed(project.environments)):
        project.build(environment)
        stages.python_tests(steps, environment, project.rest)
        if number == 0:
            stages.rust_tests(steps)
            stages.stdlib(steps, newest, ["--quick"])
            stages.soak(steps, newest)
    stages.slow_lints(steps, project.environments, newest)
    stages.docs(steps, newest)
    stages.valgrind(steps)
    stages.loom(steps)
    # Said again at the end, where it is seen.
    print(f"\n{project.search.report()}")


def lint(project: Project) -> None:
    """Check formats, lints, types and stubs."""
    project.prepare_newest()
    stages.quick_lints(project.steps, project.newest)
    project.build(project.newest)
    stages.slow_lints(project.steps, project.environments, project.newest)


def build(project: Project) -> None:
    """Build and install the wheel for the newest interpreter."""
    project.build(project.newest)


def docs(project: Project) -> None:
    """Build the documentation."""
    project.build(project.newest)
    stages.docs(project.steps, project.newest)


def demo(project: Project) -> None:
    """Run the demo."""
    project.build(project.newest)
    project.newest.prepare(requirements(["demo"]))
    project.steps.step(
        "demo",
        lambda: run([project.newest.python, ROOT / "demo" / "run.py", *project.rest], cwd=ROOT),
        needs=[f"build {project.newest.interpreter.minor}"],
    )


def bench(project: Project) -> None:
    """Run the benchmarks against peers, which have an environment of their own."""
    project.prepare_newest()
    minor = project.newest.interpreter.minor
    peers = Environment(project.newest.interpreter, list(project.search.found.values()), name=f"bench-{minor}")
    lines = [
        line.partition("#")[0].strip() for line in (ROOT / "benches" / "requirements.txt").read_text().splitlines()
    ]
    peers.prepare([line for line in lines if line])
    project.steps.step(f"build {minor}", lambda: peers.install_wheel(project.newest.script("maturin")))
    project.steps.step(
        "bench",
        lambda: run([peers.python, ROOT / "benches" / "run.py", *project.rest], cwd=ROOT),
        needs=[f"build {minor}"],
    )


def format_sources(project: Project) -> None:
    """Rewrite Rust and Python sources in the project's format."""
    project.prepare_newest()
    run(["cargo", "fmt", "--all"], cwd=ROOT)
    ruff = project.newest.script("ruff")
    run([ruff, "check", "--fix", "."], cwd=ROOT)
    run([ruff, "format", "."], cwd=ROOT)


def stdlib(project: Project) -> None:
    """Run CPython's own tests, plain and under Lissom."""
    project.prepare_newest()
    for environment in project.environments:
        project.build(environment)
        stages.stdlib(project.steps, environment, project.rest)


COMMANDS: dict[str, Callable[[Project], None]] = {
    "test": test,
    "test-stdlib": stdlib,
    "lint": lint,
    "build": build,
    "docs": docs,
    "demo": demo,
    "bench": bench,
    "format": format_sources,
}


def main() -> int:
    """Run the command named in the arguments and return the exit code."""
    parser = argparse.ArgumentParser(prog="tools/dev.py", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--python", action="append", default=[], metavar="3.X", help="use this version only (repeatable)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="STEP", help="only steps with this in their name"
    )
    parser.epilog = "What stands behind -- is passed on to pytest, tools/stdlib/stdlib.py, the demo or the benchmarks."
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:split])
    arguments.rest = words[split + 1 :]
    try:
        stages.require_tools()
        project = Project(arguments)
        COMMANDS[arguments.command](project)
    except (Failed, Unusable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return project.steps.finish() if arguments.command != "format" else 0


if __name__ == "__main__":
    sys.exit(main())
