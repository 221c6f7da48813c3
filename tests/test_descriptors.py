"""Descriptors that are no files on a disk: FIFOs, terminals, and those of events, timers, signals and processes."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on a disk: what lies in memory for good cannot be cold."""
    with tempfile.TemporaryDirectory(prefix="lissom-files-", dir=os.environ.get("LISSOM_TEST_DISK")) as name:
        yield Path(name)


@contextmanager
def nobody_runs() -> Iterator[None]:
    """Check that no other tasklet runs meanwhile."""
    ran: list[None] = []
    other = lissom.spawn(ran.append, None)
    yield
    assert not ran, "a switch where nothing had to wait"
    lissom.join(other)


def waits_for(wait: Callable[[], object], wake: Callable[[], object]) -> object:
    """Return what `wait` returns in a tasklet, which waits until `wake` is called."""
    waiter = lissom.spawn(wait)
    lissom.schedule()
    assert waiter.blocked, "it did not wait"
    wake()
    with lissom.timeout(30):
        return lissom.join(waiter)


# ---- FIFOs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fifo(folder: Path) -> Path:
    """A FIFO that nobody has open."""
    path = folder / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("by", ["open", "os.open"])
def test_opening_a_fifo_waits_for_its_other_end(fifo: Path, by: str) -> None:
    def reads() -> bytes:
        if by == "open":
            with fifo.open("rb") as file:
                return file.read()
        fd = os.open(fifo, os.O_RDONLY)
        try:
            return os.read(fd, 100)
        finally:
            os.close(fd)

    reader = lissom.spawn(reads)
    lissom.schedule()
    assert reader.blocked
    with fifo.open("wb") as file:
        file.write(b"through")
    with lissom.timeout(30):
        assert lissom.join(reader) == b"through"


def test_opening_a_fifo_in_an_open_folder_waits_for_its_other_end(fifo: Path) -> None:
    folder = os.open(fifo.parent, os.O_RDONLY)
    reader = lissom.spawn(os.open, fifo.name, os.O_RDONLY, dir_fd=folder)
    lissom.schedule()
    assert reader.blocked
    with pytest.raises(TimeoutError), lissom.timeout(0.01):
        os.open(fifo.name, os.O_RDONLY, dir_fd=folder)
    with lissom.timeout(30), fifo.open("wb") as file:
        fd = lissom.join(reader)
        file.write(b"through")
        file.flush()
        assert os.read(fd, 100) == b"through"
    os.close(fd)
    os.close(folder)


def test_paths_in_an_open_folder_are_found_there(folder: Path) -> None:
    (folder / "file").write_bytes(b"abc")
    fd = os.open(folder, os.O_RDONLY)
    with nobody_runs():
        assert os.stat("file", dir_fd=fd).st_size == 3
    os.mkdir("sub", dir_fd=fd)
    os.rename("file", "moved", src_dir_fd=fd, dst_dir_fd=fd)
    with pytest.raises(FileNotFoundError):
        os.stat("file", dir_fd=fd)
    assert {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()} == {"moved": 3}
    with os.scandir(fd) as entries:
        assert {entry.name for entry in entries if entry.stat(follow_symlinks=False).st_nlink == 1} == {"moved"}
    os.unlink("moved", dir_fd=fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.stat("sub", dir_fd=fd)


def test_many_fifos_wait_without_keeping_each_other_out(folder: Path) -> None:
    paths = [folder / str(number) for number in range(60)]
    for path in paths:
        os.mkfifo(path)
    readers = [lissom.spawn(path.read_bytes) for path in paths]
    lissom.schedule()
    with lissom.timeout(60):
        for path in paths:
            path.write_bytes(path.name.encode())
        assert [lissom.join(reader) for reader in readers] == [path.name.encode() for path in paths]


def test_opening_a_fifo_without_waiting_does_not_wait(fifo: Path) -> None:
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with nobody_runs():
        assert stat.S_ISFIFO(fifo.stat().st_mode)
    os.close(fd)


def test_timeout_ends_the_wait_for_the_other_end_and_the_program_ends(script: Script) -> None:
    done = script(
        """
        import lissom, os, tempfile
        path = os.path.join(tempfile.mkdtemp(), "fifo")
        os.mkfifo(path)
        try:
            with lissom.timeout(0.01):
                open(path)
        except TimeoutError:
            print("timed out")
        os.unlink(path)
        os.rmdir(os.path.dirname(path))
        """,
        hooked=True,
    )
    assert done.stdout == "timed out\n"


def test_fifo_in_the_place_of_a_file_that_was_just_looked_at_waits_too(fifo: Path) -> None:
    path = fifo.with_name("file")
    path.touch()
    path.stat()
    fifo.replace(path)
    reader = lissom.spawn(path.read_bytes)
    lissom.schedule()
    path.write_bytes(b"through")
    with lissom.timeout(30):
        assert lissom.join(reader) == b"through"


def by_descriptor(folder: Path) -> None:
    """Change to a folder by its descriptor."""
    fd = os.open(folder, os.O_RDONLY)
    os.fchdir(fd)
    os.close(fd)


@pytest.mark.parametrize("change", [os.chdir, by_descriptor])
def test_fifo_with_the_name_of_a_file_in_the_folder_before_waits_too(
    fifo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    (tmp_path / "fifo").touch()
    monkeypatch.chdir(tmp_path)
    name = Path("fifo")
    name.stat()
    change(fifo.parent)
    reader = lissom.spawn(name.read_bytes)
    lissom.schedule()
    name.write_bytes(b"through")
    with lissom.timeout(30):
        assert lissom.join(reader) == b"through"


# ---- other descriptors -----------------------------------------------------------------------------------------------


def test_eventfd_blocks_only_the_tasklet() -> None:
    fd = os.eventfd(0)
    assert waits_for(lambda: os.read(fd, 8), lambda: os.write(fd, (7).to_bytes(8, "little"))) == (7).to_bytes(
        8, "little"
    )
    assert waits_for(lambda: os.eventfd_read(fd), lambda: os.eventfd_write(fd, 5)) == 5
    os.close(fd)


def test_pidfd_blocks_only_the_tasklet() -> None:
    release, wait = os.pipe(), os.pidfd_open
    child = os.posix_spawn(
        "/bin/cat", ["cat"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, release[0], 0), (os.POSIX_SPAWN_CLOSE, release[1])]
    )
    fd = wait(child)
    ended = waits_for(lambda: os.waitid(os.P_PIDFD, fd, os.WEXITED), lambda: os.close(release[1]))
    assert ended.si_pid == child  # type: ignore[attr-defined]
    os.close(fd)
    os.close(release[0])


def test_inotify_blocks_only_the_tasklet(folder: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    fd = library.inotify_init1(os.O_CLOEXEC)
    assert library.inotify_add_watch(fd, bytes(folder), 0x100) >= 0  # IN_CREATE
    event = waits_for(lambda: os.read(fd, 4096), (folder / "new").touch)
    assert b"new" in event  # type: ignore[operator]
    os.close(fd)


@pytest.mark.skipif(not hasattr(os, "timerfd_create"), reason="new in 3.13")
def test_timerfd_blocks_only_the_tasklet() -> None:
    timer: Any = os  # the functions are not known to the type checker for older versions
    fd = timer.timerfd_create(time.CLOCK_MONOTONIC)
    expired = waits_for(lambda: os.read(fd, 8), lambda: timer.timerfd_settime(fd, initial=1e-6))
    assert expired == (1).to_bytes(8, sys.byteorder)
    os.close(fd)


def test_signalfd_blocks_only_the_tasklet() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    mask = bytearray(128)
    mask[(signal.SIGUSR2 - 1) // 8] = 1 << (signal.SIGUSR2 - 1) % 8
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    fd = library.signalfd(-1, bytes(mask), os.O_CLOEXEC)
    try:
        told = waits_for(lambda: os.read(fd, 128), lambda: signal.raise_signal(signal.SIGUSR2))
        assert int.from_bytes(told[:4], sys.byteorder) == signal.SIGUSR2  # type: ignore[index]
    finally:
        os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_terminal_blocks_only_the_tasklet() -> None:
    ours, terminal = os.openpty()
    with open(terminal, encoding="ascii") as file:
        assert waits_for(file.readline, lambda: os.write(ours, b"a line\n")) == "a line\n"
    os.close(ours)


def test_standard_input_blocks_only_the_tasklet(script: Script) -> None:
    done = script(
        """
        import os, sys, lissom
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        waiter = lissom.spawn(sys.stdin.readline)
        lissom.schedule()
        print(waiter.blocked)
        os.write(writer, b"a line\\n")
        print(lissom.join(waiter), end="")
        """,
        hooked=True,
    )
    assert done.stdout == "True\na line\n"


def test_vectors_through_a_pipe_block_only_the_tasklet() -> None:
    reader, writer = os.pipe()
    memory = [bytearray(2), bytearray(3)]
    assert waits_for(lambda: os.readv(reader, memory), lambda: os.writev(writer, [b"a", b"bcd", b"e"])) == 5
    assert memory == [b"ab", b"cde"]
    big = [bytes(300_000)] * 2
    sender = lissom.spawn(os.writev, writer, big)
    lissom.schedule()
    assert sender.blocked
    received = 0
    while received < 600_000:
        received += len(os.read(reader, 100_000))
    assert lissom.join(sender) == 600_000
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("other", ["for", "readline"])
def test_tasklets_take_turns_in_for_loops_over_a_binary_file(other: str) -> None:
    reader, writer = os.pipe()
    file = os.fdopen(reader, "rb")
    lines: list[bytes] = []

    def loop() -> None:
        lines.extend(file)

    def read() -> None:
        while line := file.readline():
            lines.append(line)

    tasklets = [lissom.spawn(loop), lissom.spawn(loop if other == "for" else read)]
    lissom.schedule()
    assert all(tasklet.blocked for tasklet in tasklets)
    for number in range(4):
        os.write(writer, b"%d\n" % number)
        lissom.sleep(0.001)
    os.close(writer)
    with lissom.timeout(30):
        for tasklet in tasklets:
            lissom.join(tasklet)
    assert sorted(lines) == [b"0\n", b"1\n", b"2\n", b"3\n"]
    file.close()


def test_tasklets_take_turns_in_buffered_objects_and_leave_them_when_killed() -> None:
    pipes = [os.pipe() for _ in range(3)]
    readers = [os.fdopen(reader, "rb") for reader, _ in pipes]
    waiting = [lissom.spawn(file.readline) for file in readers for _ in range(3)]
    lissom.schedule()
    assert all(tasklet.blocked for tasklet in waiting)
    for killed in waiting[::3]:  # the one that is inside, of each
        killed.kill()
    with Path("/dev/null").open("rb") as other:
        assert other.readline() == b""
    for _, writer in reversed(pipes):
        os.write(writer, b"1\n2\n")
    with lissom.timeout(30):
        left = [tasklet for number, tasklet in enumerate(waiting) if number % 3]
        assert [lissom.join(tasklet) for tasklet in left] == [b"1\n", b"2\n"] * 3
    for file, (_, writer) in zip(readers, pipes, strict=True):
        os.close(writer)
        assert file.read() == b""
        file.close()
