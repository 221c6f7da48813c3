"""Files on a disk: what is not in memory makes one tasklet wait, and nothing else differs from the original."""

from __future__ import annotations

import io
import mmap
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENT = bytes(range(256)) * 8192  # 2 MiB


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


@pytest.fixture
def path(folder: Path) -> Path:
    """A file with `CONTENT`."""
    file = folder / "file"
    file.write_bytes(CONTENT)
    return file


def make_cold(path: Path) -> None:
    """Have the kernel forget the contents; skips where they lie in memory for good."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        for _ in range(100):  # a page that a processor has just used is not dropped yet
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                # At the end, as the kernel begins to fetch what is asked for and what follows it, also if nobody waits.
                os.preadv(fd, [bytearray(1)], os.fstat(fd).st_size - 1, os.RWF_NOWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                pytest.skip(f"this file system cannot say whether a read would wait: {error}")
        pytest.skip("this file system keeps what it was told to forget")
    finally:
        os.close(fd)


@contextmanager
def others_run() -> Iterator[None]:
    """Check that other tasklets run meanwhile."""
    ran: list[None] = []
    other = lissom.spawn(ran.append, None)
    yield
    assert ran, "no other tasklet has run"
    lissom.join(other)


@contextmanager
def nobody_runs() -> Iterator[None]:
    """Check that no other tasklet runs meanwhile."""
    ran: list[None] = []
    other = lissom.spawn(ran.append, None)
    yield
    assert not ran, "a switch where nothing had to wait"
    lissom.join(other)


def by_os_read(path: Path) -> bytes:
    """Read by descriptor, a piece at a time."""
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(fd, 300_000):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def by_pread(path: Path) -> bytes:
    """Read the second half, then the first."""
    fd = os.open(path, os.O_RDONLY)
    try:
        half = len(CONTENT) // 2
        end = os.pread(fd, half, half)
        return os.pread(fd, half, 0) + end
    finally:
        os.close(fd)


def by_lines(path: Path) -> bytes:
    """Read through all layers."""
    with path.open(encoding="latin-1", newline="") as file:
        return "".join(file).encode("latin-1")


def by_pieces(path: Path) -> bytes:
    """Read from the raw file into the same memory again and again."""
    memory, pieces = bytearray(100_001), []
    with io.FileIO(path) as file:
        while got := file.readinto(memory):
            pieces.append(bytes(memory[:got]))
    return b"".join(pieces)


def raw(method: str, *args: int) -> Callable[[Path], bytes]:
    """Read with a method of the raw file."""

    def read(path: Path) -> bytes:
        with io.FileIO(path) as file:
            return bytes(getattr(file, method)(*args))

    return read


READERS: dict[str, Callable[[Path], bytes]] = {
    "os.read": by_os_read,
    "os.pread": by_pread,
    "lines": by_lines,
    "readinto": by_pieces,
    "read_bytes": Path.read_bytes,
    "read": raw("read"),
    "readall": raw("readall"),
    "read more": raw("read", len(CONTENT) + 1),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_reading_gives_what_is_there_warm_and_cold(path: Path, read: Callable[[Path], bytes]) -> None:
    assert read(path) == CONTENT
    make_cold(path)
    assert read(path) == CONTENT


def lets_others_run(path: Path, read: Callable[[int], object]) -> bool:
    """Whether a cold read makes the tasklet wait, in the first of 50 in which it does.

    The look at the page cache makes the kernel fetch, and a fast disk may be done before anybody begins to wait; but
    not 50 times in a row.
    """
    for _ in range(50):
        make_cold(path)
        ran: list[None] = []
        with path.open("rb", buffering=0) as file:
            other = lissom.spawn(ran.append, None)
            read(file.fileno())
            waited = bool(ran)
            lissom.join(other)
        if waited:
            return True
    return False


COLD: dict[str, Callable[[int], object]] = {
    "read": lambda fd: os.read(fd, 1 << 20),
    "pread": lambda fd: os.pread(fd, 1 << 20, 4096),
    "preadv": lambda fd: os.preadv(fd, [bytearray(10), bytearray(1 << 20)], 0),
    "readall": lambda fd: io.FileIO(fd, closefd=False).readall(),
}


@pytest.mark.parametrize("name", COLD)
def test_cold_read_lets_others_run(path: Path, name: str) -> None:
    assert lets_others_run(path, COLD[name])


def test_warm_read_does_not_switch(path: Path) -> None:
    path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    with nobody_runs():
        os.read(fd, 1000)
        os.pread(fd, 1000, 0)
        path.stat()
        os.listdir(path.parent)
    os.close(fd)


@pytest.mark.parametrize("flush", [os.fsync, os.fdatasync])
def test_synchronising_lets_others_run(path: Path, flush: Callable[[int], None]) -> None:
    with path.open("r+b") as file, others_run():
        file.write(b"changed")
        file.flush()
        flush(file.fileno())
    with path.open("rb") as file:
        flush(file)  # type: ignore[arg-type]  # objects with a fileno are taken, too


@pytest.mark.parametrize("flush", [os.fsync, os.fdatasync])
def test_synchronising_reports_the_systems_errors(flush: Callable[[int], None]) -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="Invalid argument"):
        flush(reader)
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        flush(reader)
    with pytest.raises(TypeError):
        flush("file")  # type: ignore[arg-type]


def test_errors_of_reading_are_the_originals(path: Path) -> None:
    with path.open("wb", buffering=0) as file, pytest.raises(io.UnsupportedOperation, match="not open for reading"):
        file.read(1)
    with path.open("wb", buffering=0) as file, pytest.raises(io.UnsupportedOperation, match="not open for reading"):
        file.readinto(bytearray(1))
    with path.open("rb", buffering=0) as file, pytest.raises(TypeError, match="read-write bytes-like"):
        file.readinto(b"constant")
    file = path.open("rb", buffering=0)
    file.close()
    for call in (file.read, file.readall, lambda: file.read(3), lambda: file.readinto(bytearray(1))):
        with pytest.raises(ValueError, match="I/O operation on closed file"):
            call()
    fd = os.open(path.parent, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        os.read(fd, 1)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(fd, 1)
    with pytest.raises(FileNotFoundError) as missing:
        (path.parent / "missing").stat()
    assert missing.value.filename == str(path.parent / "missing")


def test_position_moves_as_it_does_in_the_kernel(path: Path) -> None:
    path.write_bytes(CONTENT)
    make_cold(path)
    with path.open("rb", buffering=0) as file:
        assert file.read(10) == CONTENT[:10]
        assert file.tell() == 10
        assert os.pread(file.fileno(), 5, 100) == CONTENT[100:105]
        assert file.tell() == 10
        file.seek(len(CONTENT) - 3)
        assert file.read(10) == CONTENT[-3:]
        assert file.read(10) == b""


def test_file_that_grows_is_read_to_its_new_end(path: Path) -> None:
    path.write_bytes(b"old")
    with path.open("rb", buffering=0) as file, path.open("ab", buffering=0) as writer:
        assert file.read() == b"old"
        writer.write(b"new")
        assert file.read() == b"new"


def test_pseudo_files_without_a_size_are_read() -> None:
    with Path("/proc/self/status").open("rb", buffering=0) as file:
        assert file.read().startswith(b"Name:")
    assert b"processor" in Path("/proc/cpuinfo").read_bytes()


def test_many_tasklets_read_cold_files_at_once(folder: Path) -> None:
    paths = [folder / str(number) for number in range(50)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 100_000)
        make_cold(path)
    readers = [lissom.spawn(path.read_bytes) for path in paths]
    for number, reader in enumerate(readers):
        assert lissom.join(reader) == bytes([number]) * 100_000


def test_killed_reader_leaves_memory_and_file_alone(path: Path) -> None:
    memory = bytearray(len(CONTENT))
    with path.open("rb", buffering=0) as file:
        for _ in range(20):
            make_cold(path)
            reader = lissom.spawn(file.readinto, memory)
            lissom.schedule()
            reader.kill()
            memory.extend(b"x")  # not exported any more
            memory.pop()
        file.seek(0)
        assert file.read() == CONTENT


def test_file_that_is_closed_while_it_is_read_cold_is_read_to_the_end_or_fails(path: Path) -> None:
    make_cold(path)
    fd = os.open(path, os.O_RDONLY)
    reader = lissom.spawn(os.read, fd, 1000)
    lissom.schedule()
    os.close(fd)
    other = os.open("/dev/null", os.O_RDONLY)
    assert other == fd, "the number is another file's now"
    assert lissom.join(reader) in {CONTENT[:1000], b""}
    os.close(other)


def test_copying_a_tree_gives_the_same_tree(folder: Path, path: Path) -> None:
    source = folder / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "file").write_bytes(CONTENT)
    shutil.copytree(source, folder / "copy")
    assert (folder / "copy" / "deep" / "er" / "file").read_bytes() == CONTENT
    assert sorted(os.listdir(folder)) == ["copy", "file", "source"]
    with os.scandir(folder) as entries:
        assert {entry.name for entry in entries if entry.is_dir()} == {"copy", "source"}


@pytest.mark.parametrize(
    "where", ["supports_dir_fd", "supports_fd", "supports_follow_symlinks", "supports_effective_ids"]
)
def test_functions_are_found_in_the_sets_that_name_them(where: str) -> None:
    functions: set[object] = getattr(os, where)
    while_hooked = {function in functions for function in list(functions)}
    lissom.unhook()
    assert while_hooked == {True} == {function in functions for function in list(functions)}
    lissom.hook()


# ---- vectors, and files that are not cached --------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [None, 1000])
def test_vectors_are_filled_in_order_warm_and_cold(path: Path, offset: int | None) -> None:
    for prepare in (Path.read_bytes, make_cold):
        prepare(path)
        memory = [bytearray(100), bytearray(0), bytearray(100_000), bytearray(1)]
        fd = os.open(path, os.O_RDONLY)
        got = os.readv(fd, memory) if offset is None else os.preadv(fd, memory, offset)
        assert got == 100_101
        start = offset or 0
        assert b"".join(memory) == CONTENT[start : start + got]
        assert os.lseek(fd, 0, os.SEEK_CUR) == (got if offset is None else 0)
        assert os.preadv(fd, memory, len(CONTENT) - 150) == 150
        os.close(fd)


@pytest.mark.parametrize(
    "call",
    ["readv(fd, [b'constant'])", "readv(fd, 5)", "preadv(fd, [bytearray(1)], -2)", "writev(fd, 5)", "readv(-1, [])"],
)
def test_errors_of_vectors_are_the_originals(path: Path, call: str) -> None:
    def outcome() -> tuple[type, tuple[object, ...]]:
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises((OSError, TypeError, ValueError, BufferError)) as caught:
                eval(call, vars(os), {"fd": fd})
            return caught.type, caught.value.args
        finally:
            os.close(fd)

    hooked = outcome()
    lissom.unhook()
    try:
        assert outcome() == hooked
    finally:
        lissom.hook()


def test_reading_past_the_cache_lets_others_run_and_fills_the_programs_own_memory(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("this file system always caches")
    with mmap.mmap(-1, 1 << 16) as memory, io.FileIO(fd) as file:
        with others_run():
            assert file.readinto(memory) == 1 << 16
        assert memory[:] == CONTENT[: 1 << 16]
        assert os.readv(fd, [memory]) == 1 << 16
        assert memory[:] == CONTENT[1 << 16 : 2 << 16]


WRITERS: dict[str, Callable[[int], int]] = {
    "write": lambda fd: os.write(fd, b"data"),
    "pwrite": lambda fd: os.pwrite(fd, b"data", 0),
    "writev": lambda fd: os.writev(fd, [b"da", b"ta"]),
    "pwritev": lambda fd: os.pwritev(fd, [b"da", b"ta"], 0),
    "FileIO": lambda fd: io.FileIO(fd, "w", closefd=False).write(b"data"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("flag", [0, os.O_SYNC, os.O_DSYNC])
def test_writes_that_wait_for_the_disk_let_others_run_and_others_do_not_switch(
    path: Path, name: str, flag: int
) -> None:
    fd = os.open(path, os.O_RDWR | flag)
    with others_run() if flag else nobody_runs():
        assert WRITERS[name](fd) == 4
    assert os.pread(fd, 5, 0) == b"data" + CONTENT[4:5]
    os.close(fd)


def test_changing_folders_is_what_it_was(folder: Path) -> None:
    one, two, link, second, third = (folder / name for name in ("a", "b", "link", "second", "third"))
    one.mkdir()
    (one / "file").write_bytes(b"data")
    one.rename(two)
    link.symlink_to("b")
    assert link.readlink() == Path("b")
    second.hardlink_to(two / "file")
    os.truncate(second, 2)
    second.chmod(0o600)
    os.utime(second, (5, 6))
    assert (two / "file").read_bytes() == b"da"
    assert second.stat().st_mtime == 6
    third.touch()
    third.replace(second)
    second.replace(two / "file")
    (two / "file").unlink()
    fd = os.open(folder, os.O_RDONLY)
    os.unlink("link", dir_fd=fd)
    os.close(fd)
    two.rmdir()
    assert os.listdir(folder) == []
    with pytest.raises(FileNotFoundError) as missing:
        one.rename(two)
    assert (missing.value.filename, missing.value.filename2) == (str(one), str(two))


def test_thread_without_a_scheduler_reads_files(path: Path) -> None:
    found: list[bytes] = []
    lissom.unhook()
    thread = threading.Thread(target=lambda: found.append(path.read_bytes()))
    lissom.hook(threads=False)
    thread.start()
    thread.join()
    assert found == [CONTENT]
