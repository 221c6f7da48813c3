"""Signals: they end every wait at once, and their handlers run in the main tasklet."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Script

# What a signal may take to arrive, for a person; the bound asserted is ten times as large, for a loaded machine.
PROMPT = 0.1


@pytest.fixture
def hooked() -> Iterator[None]:
    """Hook for the test."""
    lissom.hook()
    yield
    lissom.unhook()


@contextlib.contextmanager
def handler(number: int, function: object) -> Iterator[None]:
    """Have `function` handle the signal in the block."""
    before = signal.signal(number, function)
    try:
        yield
    finally:
        signal.signal(number, before)


class Running:
    """A program under way, that has said on its standard output that it is ready."""

    def __init__(self, folder: Path, source: str, *options: str) -> None:
        path = folder / "program.py"
        path.write_text(textwrap.dedent(source))
        command = [sys.executable, *options, str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Running:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int) -> tuple[int, str, str, float]:
        """Send a signal; return exit code, what was written, and the seconds that it took to end."""
        start = time.monotonic()
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output, errors, time.monotonic() - start


STATES = {
    "main sleeps": "print('ready', flush=True); time.sleep(60)",
    "main joins a thread": "t = threading.Thread(target=time.sleep, args=[60], daemon=True); t.start();"
    "print('ready', flush=True); t.join()",
    "main waits for a lock": "l = threading.Lock(); l.acquire();"
    "threading.Thread(target=time.sleep, args=[60], daemon=True).start();"
    "print('ready', flush=True); l.acquire()",
    "main waits for a queue": "threading.Thread(target=time.sleep, args=[60], daemon=True).start();"
    "print('ready', flush=True); queue.SimpleQueue().get()",
    "main accepts": "s = socket.create_server(('127.0.0.1', 0)); print('ready', flush=True); s.accept()",
    "main selects": "print('ready', flush=True); select.select([], [], [], 60)",
    "main is busy": "print('ready', flush=True)\nwhile True: pass",
    "a thread is busy": "def spin():\n    print('ready', flush=True)\n    while True: pass\n"
    "threading.Thread(target=spin, daemon=True).start()\ntime.sleep(60)",
    "threads yield": "def spin():\n    while True: time.sleep(0)\n"
    "for _ in range(5): threading.Thread(target=spin, daemon=True).start()\nprint('ready', flush=True)\ntime.sleep(60)",
    "a thread computes in C": "def spin():\n    print('ready', flush=True)\n    while True: sum(range(1000))\n"
    "threading.Thread(target=spin, daemon=True).start()\ntime.sleep(60)",
}


@pytest.mark.parametrize("state", STATES)
def test_ctrl_c_interrupts_the_main_tasklet_promptly(tmp_path: Path, state: str) -> None:
    source = f"""
import queue, select, socket, sys, threading, time
try:
{textwrap.indent(STATES[state], "    ")}
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(9)
"""
    with Running(tmp_path, source, "-m", "lissom") as running:
        start = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 10 * PROMPT
        if "busy" not in state and "computes" not in state:
            assert running.process.wait(30) == 9


def test_handler_runs_in_the_main_tasklet_while_it_waits(hooked: None) -> None:
    seen = []
    with handler(signal.SIGUSR1, lambda number, frame: seen.append((number, lissom.getcurrent().is_main))):
        lissom.spawn(os.kill, os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
    assert seen == [(signal.SIGUSR1, True)]


def test_handler_runs_in_the_main_tasklet_while_another_is_busy(hooked: None) -> None:
    seen = []
    noticed = []

    def busy() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + 30
        while not seen and time.monotonic() < deadline:
            pass
        noticed.append(list(seen))

    with handler(signal.SIGUSR1, lambda number, frame: seen.append(lissom.getcurrent().is_main)):
        lissom.join(lissom.spawn(busy))
    assert noticed == [[True]]


@pytest.mark.parametrize("threads", [True, False])
def test_wait_goes_on_after_a_handler_that_returns(hooked: None, threads: bool) -> None:
    lissom.hook(threads=threads)
    seen: list[int] = []
    channel = lissom.channel()

    def work() -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.001)
        channel.send("after the signals")

    with handler(signal.SIGUSR1, lambda number, frame: seen.append(number)):
        lissom.spawn(work)
        assert channel.receive() == "after the signals"
    assert len(seen) == 3


def test_exception_of_a_handler_is_raised_where_the_main_tasklet_waits(hooked: None) -> None:
    def handle(number: int, frame: object) -> None:
        raise LookupError("from the handler")

    waits = [lambda: time.sleep(60), lissom.channel().receive, lambda: lissom.join(sleeper), lissom.run]
    sleeper = lissom.spawn(time.sleep, 60)
    with handler(signal.SIGUSR1, handle):
        for wait in waits:
            lissom.spawn(os.kill, os.getpid(), signal.SIGUSR1)
            with pytest.raises(LookupError, match="from the handler"):
                wait()
    sleeper.kill()


def test_handler_may_itself_wait(hooked: None) -> None:
    order: list[str] = []

    def handle(number: int, frame: object) -> None:
        order.append("begins")
        time.sleep(0.005)
        order.append("ends")

    with handler(signal.SIGUSR1, handle):
        lissom.spawn(os.kill, os.getpid(), signal.SIGUSR1)
        lissom.spawn(lambda: order.append("another runs"))
        time.sleep(0.02)
    assert order == ["begins", "another runs", "ends"] or order == ["another runs", "begins", "ends"]


def test_signals_of_several_kinds_are_all_handled(hooked: None) -> None:
    seen = []

    def send() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            lissom.schedule()

    with handler(signal.SIGUSR1, lambda number, frame: seen.append(number)):
        with handler(signal.SIGUSR2, lambda number, frame: seen.append(number)):
            lissom.join(lissom.spawn(send))
            time.sleep(0.001)
    assert sorted(seen) == [signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2]


def test_alarm_and_setitimer_end_waits(hooked: None) -> None:
    with handler(signal.SIGALRM, lambda number, frame: (_ for _ in ()).throw(TimeoutError("alarm"))):
        before = signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            with pytest.raises(TimeoutError, match="alarm"):
                time.sleep(60)
        finally:
            signal.setitimer(signal.ITIMER_REAL, *before)


def test_getsignal_tells_of_the_programs_handlers(hooked: None) -> None:
    def handle(number: int, frame: object) -> None:
        """Do nothing."""

    assert signal.signal(signal.SIGUSR1, handle) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR1) is handle
    lissom.unhook()
    assert signal.getsignal(signal.SIGUSR1) is handle
    lissom.hook()
    assert signal.getsignal(signal.SIGUSR1) is handle
    assert signal.signal(signal.SIGUSR1, signal.SIG_DFL) is handle
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_set_wakeup_fd_of_the_program_gets_its_bytes(hooked: None) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    assert signal.set_wakeup_fd(write) == -1
    try:
        with handler(signal.SIGUSR1, lambda number, frame: None):
            lissom.spawn(os.kill, os.getpid(), signal.SIGUSR1)
            assert os.read(read, 10) == bytes([signal.SIGUSR1])
    finally:
        assert signal.set_wakeup_fd(-1) == write
        os.close(read)
        os.close(write)


def test_handlers_work_in_a_program_without_hooks(script: Script) -> None:
    done = script(
        """
        import lissom, os, signal
        signal.signal(signal.SIGUSR1, lambda number, frame: print("handled", flush=True))
        def work():
            os.kill(os.getpid(), signal.SIGUSR1)
            lissom.sleep(0.01)
            print("worked")
        tasklet = lissom.spawn(work)
        lissom.join(tasklet)
        """
    )
    assert done.stdout == "handled\nworked\n"


SERVER = """
    import signal, socketserver, sys, threading, time
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.read()
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    def stop(number, frame):
        print("handler in", threading.current_thread().name, flush=True)
        threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    with server:
        server.serve_forever()
    print("shut down")
"""


def test_sigterm_handler_of_a_server_shuts_it_down(tmp_path: Path) -> None:
    with Running(tmp_path, SERVER, "-m", "lissom") as running:
        code, output, errors, _ = running.end(signal.SIGTERM)
    assert (code, output, errors) == (0, "handler in MainThread\nshut down\n", "")


def test_sigterm_without_a_handler_ends_the_process_by_the_signal(tmp_path: Path) -> None:
    with Running(tmp_path, "import time; print('ready', flush=True); time.sleep(60)", "-m", "lissom") as running:
        code, _, errors, _ = running.end(signal.SIGTERM)
    assert (code, errors) == (-signal.SIGTERM, "")


def test_sys_exit_in_a_handler_ends_the_program_with_its_code(tmp_path: Path) -> None:
    source = """
        import signal, sys, threading, time
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(5))
        threading.Thread(target=time.sleep, args=[60], daemon=True).start()
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("finally")
    """
    with Running(tmp_path, source, "-m", "lissom") as running:
        code, output, errors, _ = running.end(signal.SIGTERM)
    assert (code, output, errors) == (5, "finally\n", "")


def test_ignored_signals_do_not_disturb_waits(hooked: None) -> None:
    with handler(signal.SIGUSR1, signal.SIG_IGN):
        lissom.spawn(os.kill, os.getpid(), signal.SIGUSR1)
        start = time.monotonic()
        time.sleep(0.02)
        assert time.monotonic() - start >= 0.02


def test_storm_of_signals_loses_no_data(hooked: None) -> None:
    import socket

    left, right = socket.socketpair()
    count = []

    def send() -> None:
        for number in range(200):
            os.kill(os.getpid(), signal.SIGUSR1)
            right.sendall(b"%5d" % number)
            time.sleep(0)

    with left, right, handler(signal.SIGUSR1, lambda number, frame: count.append(1)):
        sender = lissom.spawn(send)
        received = [int(left.recv(5, socket.MSG_WAITALL)) for _ in range(200)]
        lissom.join(sender)
    assert received == list(range(200))
    assert 0 < len(count) <= 200


# ---- waiting for signals ---------------------------------------------------------------------------------------------


def later(number: int) -> None:
    """Send the process a signal, from a tasklet, after a moment."""
    lissom.sleep(0.02)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("in_main", [True, False])
def test_pause_waits_for_a_handler_and_lets_others_run(hooked: None, in_main: bool) -> None:
    seen = []

    def paused() -> None:
        signal.pause()
        seen.append("goes on")

    with handler(signal.SIGUSR1, lambda *_: seen.append("handler")):
        sender = lissom.spawn(later, signal.SIGUSR1)
        if in_main:
            paused()
        else:
            waiter = lissom.spawn(paused)
            lissom.schedule()
            assert waiter.waits_for == "a signal"
            lissom.join(waiter)
        lissom.join(sender)
    assert seen == ["handler", "goes on"]


def test_pause_is_ended_by_what_the_handler_raises(hooked: None) -> None:
    def fail(*_: object) -> None:
        raise LookupError

    with handler(signal.SIGUSR1, fail):
        sender = lissom.spawn(later, signal.SIGUSR1)
        with pytest.raises(LookupError):
            signal.pause()
        lissom.join(sender)


def test_main_thread_that_pauses_for_ever_is_no_deadlock_and_is_ended_by_ctrl_c(tmp_path: Path) -> None:
    source = """
        import signal, threading, time
        threading.Thread(target=lambda: (time.sleep(0.02), print("ready", flush=True))).start()
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("interrupted")
    """
    with Running(tmp_path, source, "-m", "lissom") as program:
        time.sleep(0.05)
        code, output, errors, _ = program.end(signal.SIGINT)
    assert (code, output, errors) == (0, "interrupted\n", "")


@pytest.fixture
def blocked() -> Iterator[set[signal.Signals]]:
    """Block two signals, as programs do that wait for them."""
    signals = {signal.SIGUSR1, signal.SIGUSR2}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    yield signals
    while signal.sigtimedwait(signals, 0):
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_sigwait_lets_others_run(hooked: None, blocked: set[signal.Signals]) -> None:
    for number in blocked:
        sender = lissom.spawn(later, number)
        assert signal.sigwait(iter(blocked)) is number
        sender = lissom.spawn(later, number)
        info = signal.sigwaitinfo(blocked)
        assert (info.si_signo, info.si_pid) == (number, os.getpid())
        sender = lissom.spawn(later, number)
        info = signal.sigtimedwait(blocked, 30)
        assert info is not None
        assert info.si_signo == number
        lissom.join(sender)


def test_signal_that_is_pending_already_is_taken_without_a_switch(hooked: None, blocked: set[signal.Signals]) -> None:
    other = lissom.spawn(lambda: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert {signal.sigwait(blocked), signal.sigwait(blocked)} == blocked
    assert other.alive
    lissom.join(other)


def test_sigtimedwait_ends_after_its_time(hooked: None, blocked: set[signal.Signals]) -> None:
    start = time.monotonic()
    waiter = lissom.spawn(signal.sigtimedwait, blocked, 0.05)
    assert lissom.join(waiter) is None
    assert time.monotonic() - start >= 0.05
    assert signal.sigtimedwait(blocked, 0) is None
    with pytest.raises(ValueError, match="non-negative"):
        signal.sigtimedwait(blocked, -1)
    with pytest.raises(TypeError):
        signal.sigwait(None)  # type: ignore[arg-type]


def test_thread_that_waits_for_the_signals_of_the_program(script: Script) -> None:
    done = script(
        """
        import os, signal, threading
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        stop = threading.Event()
        def watch():
            print(signal.sigwait({signal.SIGTERM}).name)
            stop.set()
        threading.Thread(target=watch).start()
        threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGTERM]).start()
        print(stop.wait(30))
        """,
        hooked=True,
    )
    assert done.stdout == "SIGTERM\nTrue\n"
