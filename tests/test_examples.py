"""Every example runs, ends by itself, and prints what it should."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MAX_LINES = 60

# The words to run it with, the text that the output must match, and whether `python -m lissom` runs it.
RUNS = {
    "chat_room": ([], r"(?s).*Grace hears: Ada says 'Hello\?'.*Ada hears: Grace says 'Hi, Ada\.'\n.*", False),
    "connection_pool": ([], r"(?s)answer 0 by connection 1\n.*answer 11 by .*\n3 connections made, 3 free\n", False),
    "crawler": ([], r"63 pages, \d{4} bytes\n", False),
    "echo_server": (["--clients", "50"], "50 answers, the last one: hello from 49\n", False),
    "producer_consumers": ([], "200 jobs, sum of squares 2646700\n", True),
    "timers": ([], r"(?s)limited: 10\n.*timed out after 0.25 seconds\nticked\n.*free: over\n.*", False),
}


@pytest.mark.parametrize("name", RUNS)
def test_example_runs_and_ends(script: Script, name: str) -> None:
    words, output, hooked = RUNS[name]
    options = ["-m", "lissom"] if hooked else []
    done = script.python("-X", "dev", *options, str(EXAMPLES / f"{name}.py"), *words)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(output, done.stdout), done.stdout
    assert "Error" not in done.stderr
    assert "Warning" not in done.stderr


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_example_is_short_documented_and_guarded(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert text.startswith('"""')
    assert '\nif __name__ == "__main__":\n' in text


def test_producer_and_consumers_need_no_lissom(script: Script) -> None:
    done = script.python(str(EXAMPLES / "producer_consumers.py"))
    assert done.stdout == "200 jobs, sum of squares 2646700\n"


def test_echo_server_serves_until_ctrl_c() -> None:
    command = [sys.executable, "-u", str(EXAMPLES / "echo_server.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.fullmatch(r"listening on \('127\.0\.0\.1', (\d+)\)\n", process.stdout.readline())
        assert found is not None
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=30) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "bye\n"
        assert process.returncode == 0
