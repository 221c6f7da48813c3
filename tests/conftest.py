"""What all tests share: running scripts in a process of their own, the drivers, and the check for leaks."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

# Every driver that the suite is run on; a new one is added here and nowhere else.
DRIVERS = ("uring", "epoll", "poll")

SCRIPT_TIMEOUT = 30.0

# A shell starts what runs in the background with Ctrl-C ignored, and that is inherited; the scripts of the tests
# shall find it as users have it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Script:
    """Runs Python source or a command line in a fresh interpreter of the version under test.

    A crash, a hang or a closed standard stream there is a result that can be looked at, not the end of the suite.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __call__(
        self,
        source: str,
        *args: str,
        hooked: bool = False,
        real_threads: bool = False,
        dev: bool = True,
        check: bool = True,
        **settings: object,
    ) -> subprocess.CompletedProcess[str]:
        """Run `source` as a script, with ``python -m lissom`` if `hooked`; with `check` it must exit with 0."""
        self._count += 1
        path = self._folder / f"script{self._count}.py"
        path.write_text(textwrap.dedent(source))
        command = ["-m", "lissom", *(["--real-threads"] if real_threads else [])] if hooked else []
        done = self.python(*(["-X", "dev"] if dev else []), *command, str(path), *args, **settings)
        if check and done.returncode != 0:
            pytest.fail(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
        return done

    def python(
        self,
        *words: str,
        stdin: str | None = "",
        timeout: float = SCRIPT_TIMEOUT,
        env: dict[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the interpreter with the words as they are; a None in `env` takes a variable away."""
        surroundings = dict(os.environ)
        for name, value in (env or {}).items():
            surroundings.pop(name, None)
            if value is not None:
                surroundings[name] = value
        return subprocess.run(
            [sys.executable, *words],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=surroundings,
            cwd=cwd or self._folder,
        )


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """A function that runs source in a process of its own: ``script("print(1)").stdout == "1\\n"``."""
    return Script(tmp_path)


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every driver in turn; scripts that a test starts use it, through ``LISSOM_DRIVER``."""
    name: str = request.param
    if refusal := _refusal(name):
        pytest.skip(refusal)
    monkeypatch.setenv("LISSOM_DRIVER", name)
    return name


@functools.cache
def _refusal(driver: str) -> str:
    """Return why this machine has no such driver, or nothing."""
    source = "import lissom; lissom.getmain()"
    environment = {**os.environ, "LISSOM_DRIVER": driver}
    done = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True, env=environment)
    return done.stderr.strip().rpartition("\n")[2]


def open_descriptors() -> set[int]:
    """Return the open file descriptors of this process."""
    with os.scandir("/proc/self/fd") as entries:
        numbers = {int(entry.name) for entry in entries}
    # The listing's own descriptor is closed by now, and with that no entry of the truth.
    return {number for number in numbers if _is_open(number)}


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _objects_by_type() -> Counter[str]:
    for _ in range(3):
        gc.collect()
    return Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a test marked ``leakcheck(rounds=5)`` several times; see there.

    The first two rounds warm caches up. After that no type may have more objects, and no more descriptors may be open,
    after the last round than before it, for as many objects as there were rounds: a leak grows with every round,
    a cache that fills late does not.
    """
    marker = pyfuncitem.get_closest_marker("leakcheck")
    if marker is None:
        return (yield)
    rounds: int = marker.kwargs.get("rounds", 5)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    for _ in range(2):
        pyfuncitem.obj(**arguments)
        _objects_by_type()  # counting fills caches too, those of the abstract base classes
    objects, descriptors = _objects_by_type(), open_descriptors()
    for _ in range(rounds - 1):
        pyfuncitem.obj(**arguments)
    result = yield
    grown = {name: count for name, count in (_objects_by_type() - objects).items() if count >= rounds}
    if grown:
        pytest.fail(f"objects left behind by {rounds} rounds: {grown}", pytrace=False)
    if left := open_descriptors() - descriptors:
        pytest.fail(f"descriptors left open: {describe_descriptors(left)}", pytrace=False)
    return result


def describe_descriptors(numbers: set[int]) -> dict[int, str]:
    """Say what each descriptor stands for, as far as the kernel tells."""
    names: dict[int, str] = {}
    for number in sorted(numbers):
        with contextlib.suppress(OSError):
            names[number] = str(Path(f"/proc/self/fd/{number}").readlink())
    return names


@pytest.fixture
def no_new_references() -> ReferenceCheck:
    """A check that objects end a block with as many references as they had: ``with no_new_references(thing): ...``."""
    return ReferenceCheck()


class ReferenceCheck:
    """Compares `sys.getrefcount` of objects before and after a block."""

    @contextlib.contextmanager
    def __call__(self, *things: object) -> object:
        """Fail when one of `things` is referred to more often, or less, after the block than before."""
        gc.collect()
        before = [sys.getrefcount(thing) for thing in things]
        yield
        gc.collect()
        after = [sys.getrefcount(thing) for thing in things]
        changed = {repr(thing): (b, a) for thing, b, a in zip(things, before, after, strict=True) if a != b}
        if changed:
            pytest.fail(f"references before and after: {changed}", pytrace=False)
