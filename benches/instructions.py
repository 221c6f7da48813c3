"""Count the instructions of one switch, one message, one spawn: what a clock on a shared machine cannot tell.

    python benches/instructions.py [label=path ...]

Each path is a folder to put in front of ``PYTHONPATH``, to compare builds; without one, the installed lissom is
measured. Prints a table in reStructuredText. Needs valgrind, whose callgrind counts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SETUP = """
import sys, lissom
from lissom import _core
count = int(sys.argv[1])
"""

CASES = {
    "schedule(), 10 tasklets": """
def work(rounds):
    schedule = lissom.schedule
    for _ in range(rounds):
        schedule()
for _ in range(10):
    lissom.tasklet(work)(count // 10)
lissom.run()
""",
    "channel, one message": """
channel = lissom.channel()
def receive(rounds):
    take = channel.receive
    for _ in range(rounds):
        take()
def send(rounds):
    give = channel.send
    for _ in range(rounds):
        give(None)
lissom.tasklet(receive)(count)
lissom.tasklet(send)(count)
lissom.run()
""",
    "socket pair, one round trip": """
import socket
lissom.hook()
def answer(sock, rounds):
    for _ in range(rounds):
        sock.recv(1)
        sock.send(b"x")
def ask(sock, rounds):
    for _ in range(rounds):
        sock.send(b"x")
        sock.recv(1)
here, there = socket.socketpair()
lissom.spawn(answer, there, count)
lissom.spawn(ask, here, count)
lissom.run()
""",
    "spawn, run, finish": """
def nothing():
    pass
for _ in range(count // 10):
    for _ in range(10):
        lissom.spawn(nothing)
    lissom.run()
""",
}

# What is switched on for a second look at the switch: each of these may cost something while it is on.
FLAGS = {
    "with a schedule callback": "_core.set_schedule_callback(lambda previous, next: None)\n",
    "with a channel callback": "_core.set_channel_callback(lambda *_: None)\n",
    "all off again": (
        "_core.set_schedule_callback(print); _core.set_schedule_callback(None)\n"
        "_core.set_channel_callback(print); _core.set_channel_callback(None)\n"
        "_core.switch_trap(1); _core.switch_trap(-1)\n"
    ),
}

FEW, MANY = 2_000, 12_000


def instructions(source: str, count: int, folder: str | None) -> int:
    """Return how many instructions a run of `source` takes."""
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "case.py"
        script.write_text(SETUP + source)
        environment = {**os.environ, "PYTHONHASHSEED": "0", **({"PYTHONPATH": folder} if folder else {})}
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={scratch}/out", sys.executable, str(script)]
        done = subprocess.run([*command, str(count)], check=True, capture_output=True, text=True, env=environment)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found.group(1))


def per_operation(source: str, folder: str | None) -> float:
    """Return the instructions of one operation: of many and of few runs the difference."""
    return (instructions(source, MANY, folder) - instructions(source, FEW, folder)) / (MANY - FEW)


def main(arguments: list[str]) -> None:
    """Print the table."""
    builds: dict[str, str | None] = dict(argument.split("=", 1) for argument in arguments) or {"instructions": None}
    rows = [["operation", *builds]]
    for name, source in CASES.items():
        rows.append([name, *(f"{per_operation(source, folder):.0f}" for folder in builds.values())])
        print("\r" + name, end="", file=sys.stderr)
    last = list(builds.items())[-1][1]
    for name, flags in FLAGS.items():
        case = "channel, one message" if "channel callback" in name else "schedule(), 10 tasklets"
        empty = [""] * (len(builds) - 1)
        rows.append([f"{case}, {name}", *empty, f"{per_operation(flags + CASES[case], last):.0f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    print("\r" + "\n".join([rule, lines[0], rule, *lines[1:], rule]))


if __name__ == "__main__":
    main(sys.argv[1:])
