"""Seeing what tasklets do: from inside, on a signal, when one holds its thread, and from another process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import lissom
import lissom.inspect
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script


def wait_for_a_value(channel: lissom.channel) -> object:
    return channel.receive()


def info_of(tasklet: lissom.tasklet) -> lissom.inspect.TaskletInfo:
    (info,) = [info for info in lissom.inspect.tasklets() if info.tasklet is tasklet]
    return info


def test_every_state_is_told() -> None:
    channel = lissom.channel()
    waiting, paused = lissom.spawn(wait_for_a_value, channel), lissom.spawn(lissom.schedule_remove)
    lissom.schedule()
    runnable = lissom.spawn(print)
    new = lissom.tasklet(print, ())
    states = {info.tasklet: info.state for info in lissom.inspect.tasklets()}
    assert [states[tasklet] for tasklet in (waiting, runnable, lissom.getmain())] == ["waiting", "runnable", "running"]
    assert states[new] == "new"
    assert states[paused] in ("paused", "new")  # without a Python frame of its own it looks new
    info = info_of(waiting)
    assert "sender on the channel" in (info.waits_for or "")
    assert info.waited is not None
    assert info.waited >= 0
    assert info.where[-1].startswith("wait_for_a_value (")
    assert lissom.inspect.stack(waiting)[-1].line == "return channel.receive()"
    for tasklet in (waiting, paused, runnable, new):
        tasklet.kill()


def test_time_of_waiting_grows() -> None:
    sleeping = lissom.spawn(lissom.sleep, 30)
    lissom.sleep(0.03)
    waited = info_of(sleeping).waited
    assert waited is not None
    assert waited > 0.02
    sleeping.kill()


def test_tasklets_of_other_threads_are_seen() -> None:
    channel, done = lissom.channel(), threading.Event()

    def other() -> None:
        tasklet = lissom.spawn(wait_for_a_value, channel)
        lissom.schedule()
        done.set()
        lissom.join(tasklet)

    thread = threading.Thread(target=other)
    thread.start()
    done.wait()
    (info,) = [info for info in lissom.inspect.tasklets() if "wait_for_a_value" in "".join(info.where)]
    assert info.thread_id == thread.ident
    channel.send(1)
    thread.join()


def test_dump_joins_tasklets_at_the_same_place() -> None:
    channels = [lissom.channel() for _ in range(5)]
    tasklets = [lissom.spawn(wait_for_a_value, channel) for channel in channels]
    lissom.schedule()
    text = io.StringIO()
    lissom.inspect.dump(text)
    assert "5 tasklets of thread" in text.getvalue()
    assert "waits for a sender on the channel" in text.getvalue()
    assert "return channel.receive()" in text.getvalue()
    for tasklet in tasklets:
        tasklet.kill()


def test_counters_count() -> None:
    before = lissom.inspect.counters()["switches"]
    lissom.join(lissom.spawn(lissom.schedule))
    assert lissom.inspect.counters()["switches"] > before


@pytest.mark.parametrize("busy", [False, True])
def test_dump_comes_with_the_signal(script: Script, busy: bool) -> None:
    done = script(
        f"""
        import os, signal, lissom
        def work():
            os.kill(os.getpid(), signal.SIGUSR1)
            if {busy}:
                for _ in range(100000): pass
        waiting = lissom.spawn(lissom.sleep, 30)
        lissom.join(lissom.spawn(work))
        lissom.sleep(0.01)
        """,
        env={"LISSOM_DUMP_SIGNAL": "usr1"},
    )
    assert "3 tasklets in process" in done.stderr or "2 tasklets in process" in done.stderr
    assert "waits for time" in done.stderr


def test_tasklet_that_holds_its_thread_is_reported_once(script: Script) -> None:
    done = script(
        """
        import time, lissom
        def hold():
            end = time.perf_counter() + 0.5
            while time.perf_counter() < end:
                pass
        waiting = lissom.spawn(lissom.sleep, 30)
        lissom.join(lissom.spawn(hold))
        lissom.sleep(0.2)
        """,
        env={"LISSOM_BLOCKED_MS": "50"},
    )
    assert done.stderr.count("has held its thread for") == 1
    assert "in hold" in done.stderr
    assert done.stderr.count("goes on after") == 1


def test_deadlock_is_still_noticed_with_the_detector_on(script: Script) -> None:
    done = script(
        "import lissom; lissom.channel().receive()", check=False, env={"LISSOM_BLOCKED_MS": "20", "LISSOM_TOP": "1"}
    )
    assert "Deadlock" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("name", "value"), [("LISSOM_DUMP_SIGNAL", "KILL"), ("LISSOM_DUMP_SIGNAL", "x"), ("LISSOM_BLOCKED_MS", "0")]
)
def test_impossible_setting_is_refused_in_one_line(script: Script, name: str, value: str) -> None:
    done = script.python("-m", "lissom", "-c", "pass", env={name: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"lissom: {name}={value} is ")
    assert len(done.stderr.splitlines()) == 1


def top(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lissom.top", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=50, env=environment)


def test_top_shows_a_program_that_is_busy(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "LISSOM_TOP": "1"}
    source = """
import lissom
def wait_here(channel): channel.receive()
channel = lissom.channel()
keep = [lissom.spawn(wait_here, channel) for _ in range(1000)]
lissom.schedule()
print("ready", flush=True)
while True: pass
"""
    program = subprocess.Popen([sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        once = top(str(program.pid), "--once", environment=environment)
        assert once.returncode == 0, once.stderr
        assert "1001 tasklets" in once.stdout
        assert "1000  waiting" in once.stdout
        assert "wait_here" in once.stdout
        snapshot = json.loads(top(str(program.pid), "--json", environment=environment).stdout)
        assert [group["count"] for group in snapshot["groups"]] == [1000, 1]
        assert (tmp_path / "lissom").stat().st_mode & 0o777 == 0o700
    finally:
        program.kill()
        program.wait()
        assert program.stdout is not None
        program.stdout.close()


def test_top_says_what_to_do_when_nobody_answers(tmp_path: Path) -> None:
    nobody = subprocess.Popen([sys.executable, "-c", "pass"])
    nobody.wait()
    done = top(str(nobody.pid), "--once", environment={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "LISSOM_TOP=1" in done.stderr or "cannot be attached" in done.stderr


def test_socket_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "lissom").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="must belong to you alone"):
        lissom.inspect.serve()
