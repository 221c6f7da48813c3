"""Accept rate: connections that are made, say one thing and end. Server CPU for each, and what a second of it carries.

    python benches/accept.py [--seconds 4] [--rounds 3] [PEER ...]

The servers are those of `echo_server.py`; a peer that is not installed is left out. The clients are tasklets in another
process, at many addresses of the loopback network: each has its ports, which a closed connection keeps for a minute.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from echo_server import NOT_INSTALLED

PEERS = ("lissom", "lissom-spawn", "uvloop-protocol", "uvloop-streams", "gevent", "asyncio-protocol", "threads")
CLIENTS = 64
MESSAGE = bytes(1024)


def cpu(pid: int) -> tuple[float, float]:
    """Return the CPU time of a process and the kernel's share of it, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:13])
    return user + system, system


def connect(port: int, address: str) -> None:
    """Make one connection, exchange one message, end."""
    with socket.create_connection(("127.0.0.1", port), source_address=(address, 0)) as connection:
        connection.sendall(MESSAGE)
        received = 0
        while received < len(MESSAGE):
            received += len(connection.recv(65536))


def load(port: int, seconds: float) -> int:
    """Make connections for a time; return how many."""
    counts = [0] * CLIENTS
    end = time.monotonic() + seconds

    def keep_on(number: int) -> None:
        while time.monotonic() < end:
            connect(port, f"127.0.{number + 1}.{1 + counts[number] // 500 % 250}")
            counts[number] += 1

    threads = [threading.Thread(target=keep_on, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def measure(peer: str, seconds: float) -> tuple[float, float, float] | None:
    """Return the CPU time of the server and the kernel's share for each connection, in microseconds, and the rate."""
    command = [sys.executable, str(Path(__file__).with_name("echo_server.py")), peer]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            server.wait()
            return None if server.returncode == NOT_INSTALLED else (float("nan"), float("nan"), 0)
        port = int(line)
        load(port, 0.5)
        before = cpu(server.pid)
        made = load(port, seconds)
        total, system = ((now - then) / made * 1e6 for now, then in zip(cpu(server.pid), before, strict=True))
        return total, system, made / seconds
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", default=PEERS)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    import lissom

    lissom.hook()
    least: dict[str, tuple[float, float, float]] = {}
    for _ in range(arguments.rounds):
        for peer in arguments.peers:
            found = measure(peer, arguments.seconds)
            if found:
                least[peer] = min(found, least.get(peer, found))
    columns = "CPU µs/connection", "of that kernel", "per CPU second", "made per second"
    print(f"{'server':<18} {columns[0]:>18} {columns[1]:>15} {columns[2]:>15} {columns[3]:>16}")
    for peer, (micros, system, rate) in sorted(least.items(), key=lambda item: item[1]):
        print(f"{peer:<18} {micros:18.1f} {system:15.1f} {1e6 / micros:15,.0f} {rate:16,.0f}")


if __name__ == "__main__":
    main()
