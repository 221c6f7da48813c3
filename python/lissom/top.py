"""A live view of the tasklets of a running program: ``python -m lissom.top PID``.

The program must have been started with ``LISSOM_TOP=1`` or have called `lissom.inspect.serve`. On CPython 3.14 and
newer it is asked to do so through ``sys.remote_exec`` if it has not, which the system must allow (ptrace).
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lissom.inspect import _socket_folder

# More than any program sends: ten thousand different stacks.
LARGEST = 64 * 1024 * 1024


class Unreachable(Exception):
    """The program cannot be looked at; the text says why and what to do."""


def read(pid: int) -> dict[str, Any]:
    """Return a snapshot of a program; raise `Unreachable` if it does not answer."""
    path = _socket_folder() / f"{pid}.sock"
    data = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(str(path))
            while part := connection.recv(65536):
                data += part
                if len(data) > LARGEST:
                    raise Unreachable(f"process {pid} sends more than {LARGEST >> 20} MiB")
    except OSError as error:
        raise Unreachable(
            f"process {pid} does not answer ({error.strerror or error}): start it with LISSOM_TOP=1, or call "
            "lissom.inspect.serve() in it"
        ) from None
    snapshot: dict[str, Any] = json.loads(data)
    if snapshot.get("version") != 1:
        raise Unreachable(f"process {pid} runs another version of lissom: use its own lissom.top")
    return snapshot


def attach(pid: int) -> None:
    """Have a program that was not prepared serve snapshots, where the interpreter can do that (CPython 3.14)."""
    remote_exec = getattr(sys, "remote_exec", None)
    if remote_exec is None:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
        file.write("import lissom.inspect\nlissom.inspect.serve()\n")
    try:
        remote_exec(pid, file.name)
        deadline = time.monotonic() + 3
        while not (_socket_folder() / f"{pid}.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    except (OSError, RuntimeError) as error:
        raise Unreachable(
            f"process {pid} cannot be attached to ({error}): start it with LISSOM_TOP=1, or call "
            "lissom.inspect.serve() in it"
        ) from None
    finally:
        Path(file.name).unlink()


def rows(snapshot: dict[str, Any], limit: int) -> list[tuple[str, str, str, str, str]]:
    """Return the lines of the table: count, state, longest wait, what for, where."""
    lines = []
    for group in snapshot["groups"][:limit]:
        state = "main, " + group["state"] if group["main"] else group["state"]
        waited = f"{group['longest']:.1f} s" if group["waits_for"] else ""
        where = " < ".join(group["where"][::-1][:3])
        lines.append((str(group["count"]), state, waited, group["waits_for"] or "", where))
    return lines


def plain(snapshot: dict[str, Any], limit: int) -> str:
    """Return a table as text."""
    head = f"process {snapshot['pid']}: {snapshot['tasklets']} tasklets"
    return "\n".join([head, *("  ".join(part for part in row if part) for row in rows(snapshot, limit))])


def watch(pid: int, interval: float, limit: int) -> None:
    """Show the table again and again, until Ctrl-C or the end of the program."""
    try:
        from rich.live import Live
        from rich.table import Table
    except ImportError:
        while True:
            print(plain(read(pid), limit), flush=True)
            time.sleep(interval)

    def table() -> Table:
        snapshot = read(pid)
        view = Table(title=f"process {pid}: {snapshot['tasklets']} tasklets", expand=True)
        for name in ("tasklets", "state", "waited", "waits for", "where, innermost first"):
            view.add_column(name, justify="right" if name in ("tasklets", "waited") else "left")
        for row in rows(snapshot, limit):
            view.add_row(*row)
        return view

    with Live(table(), auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(table(), refresh=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lissom.top", description="Show what the tasklets of a program do.")
    parser.add_argument("pid", type=int, help="the program's process")
    parser.add_argument("--once", action="store_true", help="print the table once and end")
    parser.add_argument("--json", action="store_true", help="print what the program says, once, as JSON")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (default: 1)")
    parser.add_argument("--limit", type=int, default=30, metavar="N", help="how many places to show (default: 30)")
    options = parser.parse_args(arguments)
    try:
        try:
            snapshot = read(options.pid)
        except Unreachable:
            attach(options.pid)
            snapshot = read(options.pid)
        if options.json:
            print(json.dumps(snapshot, indent=1))
        elif options.once:
            print(plain(snapshot, options.limit))
        else:
            watch(options.pid, options.interval, options.limit)
    except Unreachable as problem:
        print(f"lissom.top: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
