"""Pipes, processes and terminals: `os.read`, `os.write`, `os.waitpid` and its kin, `subprocess`."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: where to read, where to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def meanwhile(wait: Callable[[], object], wake: Callable[[], object]) -> object:
    """Return what `wait` returns in a tasklet; it must wait, and not block the thread, until `wake` is called."""
    waiter = lissom.spawn(wait)
    lissom.schedule()
    assert waiter.blocked, "it did not wait"
    wake()
    with lissom.timeout(30):
        return lissom.join(waiter)


# ---- pipes -----------------------------------------------------------------------------------------------------------


def test_read_waits_for_data(pipe: tuple[int, int]) -> None:
    assert meanwhile(lambda: os.read(pipe[0], 100), lambda: os.write(pipe[1], b"data")) == b"data"


def test_read_sees_the_end(pipe: tuple[int, int]) -> None:
    assert meanwhile(lambda: os.read(pipe[0], 100), lambda: os.close(pipe[1])) == b""


def test_read_of_what_is_there_does_not_switch(pipe: tuple[int, int]) -> None:
    order: list[str] = []
    os.write(pipe[1], b"data")
    lissom.spawn(order.append, "switched")
    assert os.read(pipe[0], 2) == b"da"
    assert order == []
    lissom.run()


def test_write_waits_for_room_and_takes_all(pipe: tuple[int, int]) -> None:
    data = os.urandom(1 << 20)
    received = bytearray()

    def read_all() -> None:
        while len(received) < len(data):
            received.extend(os.read(pipe[0], 1 << 16))

    assert meanwhile(lambda: os.write(pipe[1], data), read_all) == len(data)
    assert received == data


def test_write_to_a_pipe_without_readers_raises_epipe(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    with pytest.raises(BrokenPipeError):
        os.write(pipe[1], b"x")


def test_reader_going_away_ends_a_waiting_write(pipe: tuple[int, int]) -> None:
    def write() -> str:
        try:
            while True:
                os.write(pipe[1], bytes(1 << 16))
        except BrokenPipeError:
            return "broken"

    assert meanwhile(write, lambda: os.close(pipe[0])) == "broken"


def test_pipes_keep_their_blocking_mode(pipe: tuple[int, int]) -> None:
    meanwhile(lambda: os.read(pipe[0], 1), lambda: os.write(pipe[1], b"x"))
    assert os.get_blocking(pipe[0])
    assert os.get_blocking(pipe[1])


def test_non_blocking_pipe_raises_at_once(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)


def test_fifo_and_terminal_wait_too(tmp_path) -> None:
    master, slave = os.openpty()
    assert meanwhile(lambda: os.read(slave, 100), lambda: os.write(master, b"line\n")) == b"line\n"
    os.close(master)
    os.close(slave)
    os.mkfifo(tmp_path / "fifo")
    read = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write = os.open(tmp_path / "fifo", os.O_WRONLY)
    os.set_blocking(read, True)
    assert meanwhile(lambda: os.read(read, 100), lambda: os.write(write, b"x")) == b"x"
    os.close(read)
    os.close(write)


def test_eventfd_waits(pipe: tuple[int, int]) -> None:
    number = os.eventfd(0)
    value = meanwhile(lambda: os.read(number, 8), lambda: os.write(number, (7).to_bytes(8, sys.byteorder)))
    assert int.from_bytes(value, sys.byteorder) == 7
    os.close(number)


def test_regular_files_are_read_and_written_as_ever(tmp_path) -> None:
    number = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert os.write(number, b"data") == 4
    os.lseek(number, 0, os.SEEK_SET)
    assert os.read(number, 100) == b"data"
    assert os.read(number, 100) == b""
    os.close(number)


def test_file_object_on_a_pipe_reads_lines_as_they_come(pipe: tuple[int, int]) -> None:
    """`io.FileIO` reads in C, and not through `os.read`."""
    lines = []

    def read() -> None:
        with open(pipe[0], "rb", closefd=False) as stream:
            lines.extend(stream)

    reader = lissom.spawn(read)
    lissom.spawn(lambda: (os.write(pipe[1], b"a\nb\n"), os.close(pipe[1])))
    with lissom.timeout(30):
        lissom.join(reader)
    assert lines == [b"a\n", b"b\n"]


def set_lock(fd: int, operation: int) -> None:
    """Do as ``lockf``, by ``fcntl``."""
    command = fcntl.F_SETLK if operation & (fcntl.LOCK_NB | fcntl.LOCK_UN) else fcntl.F_SETLKW
    kind = fcntl.F_UNLCK if operation & fcntl.LOCK_UN else fcntl.F_WRLCK
    # struct flock: type, whence, start, length, process.
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf, set_lock])
def test_lock_of_a_file_is_waited_for(tmp_path, lock: Callable[[int, int], None]) -> None:
    path = tmp_path / "locked"
    path.touch()
    # Locks of lockf are the process's own, so another process has to hold it.
    source = f"""
        import fcntl, sys
        with open({str(path)!r}, "r+") as file:
            fcntl.{"flock" if lock is fcntl.flock else "lockf"}(file.fileno(), fcntl.LOCK_EX)
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other, path.open("r+") as file:
        assert other.stdout
        assert other.stdin
        other.stdout.readline()
        with pytest.raises(BlockingIOError):
            lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(TimeoutError), lissom.timeout(0.05):
            lock(file.fileno(), fcntl.LOCK_EX)
        waiter = lissom.spawn(lock, file.fileno(), fcntl.LOCK_EX)
        lissom.sleep(0.01)
        while waiter.waits_for is None:  # it has been woken to try again
            lissom.schedule()
        assert waiter.waits_for == f"a lock on the file of descriptor {file.fileno()}"
        other.stdin.close()
        assert lissom.join(waiter) is None
        lock(file.fileno(), fcntl.LOCK_UN)


def test_splice_waits_for_its_source_and_for_its_target(pipe: tuple[int, int]) -> None:
    left, right = socket.socketpair()
    with left, right:
        # From a socket that has nothing yet, by names and without offsets.
        mover = lissom.spawn(os.splice, right.fileno(), dst=pipe[1], count=100)
        lissom.schedule()
        assert mover.waits_for == f"descriptor {right.fileno()} to become readable"
        left.send(b"abc")
        assert lissom.join(mover) == 3
        assert os.read(pipe[0], 100) == b"abc"
        # Into a pipe that is full.
        room = os.pathconf(pipe[0], "PC_PIPE_BUF") * 16
        os.write(pipe[1], bytes(room))
        left.send(b"def")
        mover = lissom.spawn(os.splice, right.fileno(), pipe[1], 100, None, None, 0)
        lissom.schedule()
        assert mover.waits_for == f"descriptor {pipe[1]} to become writable"
        assert len(os.read(pipe[0], room)) == room
        assert lissom.join(mover) == 3
        assert os.read(pipe[0], 100) == b"def"
        # A killed one has moved nothing.
        mover = lissom.spawn(os.splice, right.fileno(), pipe[1], 100)
        lissom.schedule()
        mover.kill()
        left.send(b"ghi")
        assert right.recv(100) == b"ghi"
        with pytest.raises(BlockingIOError):
            os.splice(right.fileno(), pipe[1], 100, flags=os.SPLICE_F_NONBLOCK)
        os.set_blocking(right.fileno(), False)
        with pytest.raises(BlockingIOError):
            os.splice(right.fileno(), pipe[1], 100)
        with pytest.raises(TypeError):
            os.splice(right.fileno(), pipe[1])  # type: ignore[call-arg]


def test_tasklets_wait_for_each_others_lock_of_a_file(tmp_path) -> None:
    order = []

    def work(name: str) -> None:
        with (tmp_path / "locked").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            order.append(name)
            lissom.sleep(0.005)
            order.append(name)

    for tasklet in [lissom.spawn(work, name) for name in "abc"]:
        lissom.join(tasklet)
    assert sorted(order[::2]) == ["a", "b", "c"]
    assert order[::2] == order[1::2]


@pytest.mark.parametrize(
    "call",
    [
        "os.read(-1, 1)",
        "os.read(0, -1)",
        "os.read('x', 1)",
        "os.write(-1, b'')",
        "os.write(1, 'text')",
        "os.read()",
        "os.waitpid()",
        "os.waitpid('x', 0)",
        "os.waitpid(2**22 + 1, 0)",
        "os.close(-1)",
        "os.close('x')",
    ],
)
def test_wrong_arguments_raise_what_the_original_raises(call: str) -> None:
    def outcome() -> tuple[type, str]:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            eval(call)
        return caught.type, str(caught.value)

    hooked = outcome()
    lissom.unhook()
    assert outcome() == hooked


# ---- processes -------------------------------------------------------------------------------------------------------


def child(code: str = "import sys; sys.stdin.read(); sys.exit(3)") -> subprocess.Popen[bytes]:
    """Start a process that ends when its standard input does."""
    return subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE)


@pytest.mark.parametrize(
    "wait",
    [
        lambda pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]),
        lambda pid: os.waitstatus_to_exitcode(os.wait4(pid, 0)[1]),
        lambda pid: os.waitid(os.P_PID, pid, os.WEXITED).si_status,
    ],
    ids=["waitpid", "wait4", "waitid"],
)
def test_wait_for_a_process_lets_others_run(wait: Callable[[int], int]) -> None:
    process = child()
    assert process.stdin is not None
    assert meanwhile(lambda: wait(process.pid), process.stdin.close) == 3
    process.returncode = 3


def test_waitpid_for_any_child_lets_others_run() -> None:
    process = child()
    assert process.stdin is not None
    pid, status = meanwhile(lambda: os.waitpid(-1, 0), process.stdin.close)
    assert (pid, os.waitstatus_to_exitcode(status)) == (process.pid, 3)
    process.returncode = 3


def by_waitid_pidfd(pid: int) -> int:
    """The status by ``waitid`` of a descriptor; looks once before."""
    fd = os.pidfd_open(pid)
    try:
        looked, ended = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT), os.waitid(os.P_PIDFD, fd, os.WEXITED)
        assert looked == ended
        assert ended
        return ended.si_status
    finally:
        os.close(fd)


def by_wait4(pid: int) -> int:
    """The status by ``wait4``, with its words named."""
    return os.waitstatus_to_exitcode(os.wait4(pid=pid, options=0)[1])


@pytest.mark.parametrize("wait", [by_waitid_pidfd, by_wait4])
def test_end_of_a_child_is_waited_for_by_descriptor_and_by_keywords(wait: Callable[[int], int]) -> None:
    process = child()
    assert process.stdin
    assert meanwhile(lambda: wait(process.pid), process.stdin.close) == 3
    process.returncode = 3
    with pytest.raises(ChildProcessError):
        os.wait4(process.pid, 0)


def test_more_children_are_waited_for_than_any_pool_has_threads() -> None:
    children = [child() for _ in range(40)]
    waiters = [lissom.spawn(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WSTOPPED) for process in children]
    lissom.schedule()
    assert lissom.offload(pow, 2, 10) == 1024
    for process in children:
        assert process.stdin
        process.stdin.close()
    assert [lissom.join(waiter).si_status for waiter in waiters] == [3] * 40
    for process in children:
        process.returncode = 3


def test_child_that_stops_and_goes_on_is_seen() -> None:
    process = child()
    assert process.stdin
    stopped = meanwhile(lambda: os.waitpid(process.pid, os.WUNTRACED), lambda: process.send_signal(signal.SIGSTOP))
    assert os.WIFSTOPPED(stopped[1])  # type: ignore[index]
    goes_on = meanwhile(
        lambda: os.waitid(os.P_PID, process.pid, os.WCONTINUED), lambda: process.send_signal(signal.SIGCONT)
    )
    assert goes_on.si_code == os.CLD_CONTINUED  # type: ignore[attr-defined]
    process.stdin.close()
    assert process.wait() == 3


def test_waitpid_without_hanging_returns_at_once() -> None:
    process = child()
    assert process.stdin is not None
    assert os.waitpid(process.pid, os.WNOHANG) == (0, 0)
    process.stdin.close()
    assert process.wait() == 3
    with pytest.raises(ChildProcessError):
        os.waitpid(process.pid, 0)


def test_popen_wait_communicate_and_timeout() -> None:
    process = child()
    assert process.stdin is not None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.02)
    assert meanwhile(process.wait, process.stdin.close) == 3


def test_many_processes_run_at_the_same_time() -> None:
    """Each waits for the next one's file, so that they could not end one after the other."""
    code = "import sys; print(sys.stdin.readline().strip())"
    processes = [
        subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    waiting = [lissom.spawn(process.communicate, f"{number}\n") for number, process in enumerate(processes)]
    with lissom.timeout(60):
        assert [lissom.join(tasklet)[0] for tasklet in waiting] == ["0\n", "1\n", "2\n", "3\n"]


def test_run_captures_output_while_others_run() -> None:
    order: list[str] = []
    lissom.spawn(order.append, "ran")
    done = subprocess.run([sys.executable, "-S", "-c", "print('x' * 100_000)"], capture_output=True, check=True)
    assert len(done.stdout) == 100_001
    assert order == ["ran"]


def test_communicate_in_threads_with_input_and_timeout() -> None:
    results = []

    def work(number: int) -> None:
        code = "import sys; sys.stdout.write(sys.stdin.read() * 2)"
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            input=f"{number}",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        results.append(done.stdout)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == ["00", "11", "22", "33"]


def test_killed_process_is_reported_with_its_signal() -> None:
    process = child()
    assert meanwhile(process.wait, lambda: process.send_signal(signal.SIGKILL)) == -signal.SIGKILL
    assert process.stdin is not None
    process.stdin.close()


def test_os_system_and_popen_work() -> None:
    assert os.waitstatus_to_exitcode(os.system("exit 3")) == 3
    with os.popen("echo text") as stream:
        assert stream.read() == "text\n"


def test_time_passes_for_others_while_a_process_is_waited_for() -> None:
    process = child("import time; time.sleep(0.2)")
    ticks = []

    def tick() -> None:
        while process.returncode is None:
            ticks.append(time.monotonic())
            time.sleep(0.01)

    ticker = lissom.spawn(tick)
    process.wait()
    lissom.join(ticker)
    assert len(ticks) > 3
    assert process.stdin is not None
    process.stdin.close()
