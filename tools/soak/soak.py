"""Mixed traffic for as long as one likes, every byte checked: nothing lost or duplicated, no descriptor leaked.

    python tools/soak/soak.py [--seconds 60] [--connections 1000] [--driver uring] [--seed N]

A server under ``lissom.hook`` with a tasklet for each connection, and clients in another process: bursts, idling,
half-closes, resets, timeouts while connecting, receiving and sending, servers and clients killed in the middle, and
times without a free descriptor at both ends. Prints what was done and checked; the exit code is 0 if nothing was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import gc
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from traffic import EVENTS, KINDS, PATIENCE, TRAFFIC, Damage, Order, killed, never_accepted, read_order

if TYPE_CHECKING:
    from collections.abc import Callable

# The ports of one address pair are used up by connections that were closed a minute ago.
LISTENERS = 8
# Descriptors that a process needs beside its connections.
SPARE = 100
# What there may be more of later: bytes, and objects.
SLACK = 16 << 20
OBJECTS = 20_000
FULL = {errno.EMFILE, errno.ENFILE}
# How often to look at the memory.
LOOKS = 24
# Opened while there are descriptors.
STATM = os.open("/proc/self/statm", os.O_RDONLY)


class MallInfo(ctypes.Structure):
    """What mallinfo2(3) returns."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def mallinfo() -> MallInfo:
    """Return what the C library says of its allocator; zeros from one that says nothing."""
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is None:
        return MallInfo()
    function.restype = MallInfo
    info: MallInfo = function()
    return info


@dataclass
class Memory:
    """The memory of a process at one moment."""

    resident: int
    """What the system has given, in bytes. Allocators keep what was in use once, for a while or for ever."""
    allocated: int
    """What the C library's allocator has given out, in bytes: large objects, and what is no object."""
    objects: int
    """How many small pieces the interpreter's allocator has given out."""

    @classmethod
    def now(cls) -> Memory:
        """Look."""
        info = mallinfo()
        resident = int(os.pread(STATM, 100, 0).split()[1]) * resource.getpagesize()
        return cls(resident, info.uordblks + info.hblkhd, sys.getallocatedblocks())

    @classmethod
    def middle(cls, samples: list[Memory]) -> Memory:
        """Return what lies in the middle of several looks, each figure for itself."""
        middle = statistics.median_low
        return cls(*(middle([getattr(sample, field.name) for sample in samples]) for field in fields(cls)))

    def __str__(self) -> str:
        return f"{self.resident >> 20} MiB ({self.allocated >> 20} allocated, {self.objects:,} objects)"


def descriptors() -> int:
    """Return the number of open descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


def exhaust(ended: Callable[[], bool]) -> None:
    """Now and then, take all descriptors that are left, for a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    while not ended():
        time.sleep(1)
        try:
            highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        except OSError:  # none are left already
            continue
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, highest + 2), hard))
        taken: list[int] = []
        for _ in range(50):
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(sys.stdout.fileno()))
            time.sleep(0.001)
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def account(before: int, memory: list[Memory]) -> dict[str, Any]:
    """Return what every part reports of itself at its end, and what of it is wrong.

    `memory` is what it had before the first connection, and then at equal distances while there were connections.
    """
    import lissom.inspect

    wrong = []
    limit = time.monotonic() + PATIENCE
    while threading.active_count() > 1 and time.monotonic() < limit:
        time.sleep(0.05)
    gc.collect()
    left = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]  # noqa: PTH115
    sockets = [name for name in left if name.startswith("socket:")]
    if sockets:
        wrong.append(f"{len(sockets)} sockets are still open")
    if (alive := threading.active_count()) > 1:
        wrong.append(f"{alive - 1} threads have not ended")
    # How much a connection takes depends on how far it is, so single looks tell little under load.
    begin, *loaded, end = (*memory, Memory.now())
    quarter = max(len(loaded) // 4, 1)
    second, last = Memory.middle(loaded[quarter : 2 * quarter]), Memory.middle(loaded[-quarter:])
    if last.resident > second.resident * 1.1 + SLACK:
        wrong.append(f"memory grew from {second} to {last}")
    if end.allocated > begin.allocated + SLACK or end.objects > begin.objects + OBJECTS:
        wrong.append(f"memory was not given back: {begin} at first, {end} at the end")
    if len(left) > before:
        wrong.append(f"{before} descriptors were open at first, and at the end {sorted(left)}")
    return {
        "driver": lissom.inspect.driver().name,
        "descriptors": [before, len(left)],
        "memory": f"at first {begin}, in the second quarter {second}, in the last {last}, at the end {end}",
        "resident": [sample.resident >> 20 for sample in loaded],
        "events": EVENTS,
        "wrong": wrong,
    }


class Server:
    """Serves until its standard input ends; then says what it has seen."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.stopping = False

    def serve(self, connection: socket.socket) -> None:
        """Serve one connection."""
        kind = "no order"
        try:
            with connection:
                connection.settimeout(PATIENCE)
                order = read_order(connection)
                if order is None:
                    self.done[kind] += 1
                    return
                kind = order.kind
                if kind == "killed":
                    self.serve_and_die(connection, order)
                else:
                    TRAFFIC[kind][1](connection, order)
            self.done[kind] += 1
        except (OSError, Damage, AssertionError) as error:
            if not self.stopping:
                self.wrong.append(f"{kind}: {error!r}")

    def serve_and_die(self, connection: socket.socket, order: Order) -> None:
        """Serve in a tasklet that is killed after a moment, wherever it is."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            killed(random.Random(order.seed), "server", TRAFFIC[order.kind][1], connection, order)

    def accept(self, listener: socket.socket) -> None:
        """Accept with a timeout, time and again; wait when descriptors are used up."""
        listener.settimeout(0.1)
        while not self.stopping:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                self.done["accept timed out"] += 1
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self.done["no descriptor"] += 1
                time.sleep(0.01)
            else:
                threading.Thread(target=self.serve, args=[connection]).start()

    def run(self) -> dict[str, object]:
        """Serve; return the report."""
        before, memory = descriptors(), [Memory.now()]
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(LISTENERS)]
        print(*(listener.getsockname()[1] for listener in listeners), flush=True)
        threads = [threading.Thread(target=self.accept, args=[listener]) for listener in listeners]
        threads.append(threading.Thread(target=exhaust, args=[lambda: self.stopping]))
        for thread in threads:
            thread.start()
        # Each line asks for a look.
        memory += [Memory.now() for _ in sys.stdin]
        self.stopping = True
        for thread in threads:
            thread.join()
        for listener in listeners:
            listener.close()
        report = account(before, memory)
        report["wrong"] = self.wrong + report["wrong"]
        return {**report, "done": self.done}


class Client:
    """Keeps a number of connections busy for a time."""

    def __init__(self, ports: list[int], connections: int, seconds: float, seed: int) -> None:
        self.ports, self.connections, self.seed = ports, connections, seed
        self.end = time.monotonic() + seconds
        self.done: Counter[str] = Counter()
        self.sent = 0
        self.wrong: list[str] = []

    def one(self, dice: random.Random) -> None:
        """Make one connection and check all that it brings."""
        kind = dice.choices(KINDS, [4, 8, 2, 1, 1, 1, 1, 1])[0]
        size = dice.choice([0, 1, 100, 5_000, 60_000, 300_000 if kind == "stalled" else 100_000])
        order = Order(kind, dice.getrandbits(64), max(size, 2))
        try:
            if kind == "gone":
                killed(dice, "client", self.connect, order, dice)
            else:
                self.connect(order, dice)
            self.done[kind] += 1
            self.sent += order.size
        except (OSError, Damage) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                self.done["no descriptor"] += 1
                time.sleep(0.01)
            else:
                self.wrong.append(f"{order}: {error!r}")

    def connect(self, order: Order, dice: random.Random) -> None:
        """Connect, say what is to come, and do it."""
        with socket.socket() as connection:
            connection.settimeout(PATIENCE)
            connection.connect(("127.0.0.1", dice.choice(self.ports)))
            connection.sendall(order.pack())
            TRAFFIC[order.kind][0](connection, order, dice)

    def keep_busy(self, number: int) -> None:
        """Make one connection after the other."""
        dice = random.Random(self.seed * 1_000_003 + number)
        time.sleep(dice.random())
        while not self.ended():
            self.one(dice)
            if dice.random() < 0.1:
                time.sleep(dice.random() * 0.1)

    def connect_in_vain(self, address: tuple[str, int]) -> None:
        """Connect time and again where nobody accepts, until the time is up."""
        while not self.ended():
            try:
                socket.create_connection(address, timeout=0.05).close()
                self.wrong.append("connected where nobody accepts")
            except TimeoutError:
                self.done["connect timed out"] += 1
            except OSError as error:
                if error.errno not in FULL:
                    raise
                time.sleep(0.01)

    def ended(self) -> bool:
        """Return whether the time is up, or enough is wrong."""
        return time.monotonic() > self.end or len(self.wrong) >= 20

    def run(self) -> dict[str, object]:
        """Run them all; return the report."""
        before, seconds = descriptors(), self.end - time.monotonic()
        memory = [Memory.now()]

        def look_at_the_memory() -> None:
            for _ in range(LOOKS):
                time.sleep(seconds * 0.95 / LOOKS)
                memory.append(Memory.now())

        with never_accepted() as address:
            threads = [threading.Thread(target=exhaust, args=[self.ended]), threading.Thread(target=look_at_the_memory)]
            threads += [threading.Thread(target=self.connect_in_vain, args=[address]) for _ in range(10)]
            threads += [threading.Thread(target=self.keep_busy, args=[number]) for number in range(self.connections)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        del thread, threads[:]
        report = account(before, memory)
        report["wrong"] = self.wrong + report["wrong"]
        return {**report, "done": self.done, "bytes": self.sent}


def allow_descriptors(wanted: int) -> int:
    """Raise the limit on descriptors as far as needed; return how many connections it allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = wanted + SPARE if hard == resource.RLIM_INFINITY else min(wanted + SPARE, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(room, SPARE), hard))
    return room - SPARE


def part(role: str, *words: str) -> None:
    """Be the server or the client, in a process under Lissom."""
    import lissom

    lissom.hook()
    if role == "server":
        allow_descriptors(int(words[0]))
        report = Server().run()
    else:
        connections, seconds, seed, *ports = words
        allow_descriptors(int(connections))
        report = Client([int(port) for port in ports], int(connections), float(seconds), int(seed)).run()
    print(json.dumps(report), flush=True)


def soak(connections: int, seconds: float, seed: int, driver: str) -> int:
    """Run both parts; print the report; return the exit code."""
    room = allow_descriptors(connections)
    if room < connections:
        print(f"note: the limit on open files allows {room} connections, not {connections}")
        connections = room
    environment = {**os.environ, "LISSOM_DRIVER": driver}
    command = [sys.executable, "-X", "dev", __file__, "--part"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen([*command, "server", str(connections)], env=environment, **pipes)  # type: ignore[call-overload]
    ports = server.stdout.readline().split()
    words = [str(connections), str(seconds), str(seed), *ports]
    client = subprocess.Popen([*command, "client", *words], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(LOOKS):
            time.sleep(seconds * 0.95 / LOOKS)
            server.stdin.write("look at the memory\n")
            server.stdin.flush()
        sent, _ = client.communicate(timeout=seconds + 4 * PATIENCE)
        seen, _ = server.communicate(timeout=4 * PATIENCE)
        reports = {"client": json.loads(sent), "server": json.loads(seen)}
    except (subprocess.TimeoutExpired, json.JSONDecodeError, BrokenPipeError) as error:
        print(f"a part did not end as it should: {error}")
        return 1
    finally:
        for process in (client, server):
            process.kill()
            process.wait()
    return judge(reports, seed, driver)


# A kind of traffic, or an event, that never comes tests nothing.
EXPECTED = {
    "client": (*KINDS, "connect timed out", "no descriptor", "client killed in the middle"),
    "server": (
        *KINDS,
        "accept timed out",
        "no descriptor",
        "receive timed out",
        "send timed out",
        "server killed in the middle",
    ),
}


def judge(reports: dict[str, dict[str, Any]], seed: int, driver: str) -> int:
    """Print what was done and what was wrong; return the exit code."""
    client, server = reports["client"], reports["server"]
    wrong = [f"{name}: {line}" for name, report in reports.items() for line in report["wrong"]]
    happened = {name: Counter(report["done"]) + Counter(report["events"]) for name, report in reports.items()}
    for name, expected in EXPECTED.items():
        wrong += [f"{name}: there was none of: {kind}" for kind in expected if not happened[name][kind]]
        if reports[name]["driver"] != driver:
            wrong.append(f"{name}: the driver was {reports[name]['driver']}")
    # Each connection once, at both ends.
    for kind in set(KINDS) - {"gone"}:
        ends = client["done"].get(kind, 0), server["done"].get(kind, 0)
        if ends[0] != ends[1]:
            wrong.append(f"{kind}: {ends[0]} connections at the clients, {ends[1]} at the server")
    arrived, taken = client["events"].get("stalled bytes", 0), server["events"].get("stalled bytes", 0)
    if arrived != taken:
        wrong.append(f"of {taken} bytes that stalled sends took {arrived} arrived")
    total = sum(client["done"].get(kind, 0) for kind in KINDS)
    print(
        f"driver {server['driver']}, seed {seed}: {total} connections, {client['bytes'] / 1e6:.0f} MB each way, checked"
    )
    for name, report in reports.items():
        print(f"  {name}: " + ", ".join(f"{kind} {count}" for kind, count in sorted(happened[name].items())))
        print(f"    descriptors {report['descriptors']}, memory {report['memory']}")
        print(f"    resident MiB {report['resident']}")
    for line in wrong[:40]:
        print(f"  WRONG: {line}")
    return 1 if wrong else 0


def main() -> int:
    """Run what the arguments ask for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument(
        "--driver", action="append", choices=["uring", "epoll", "poll"], help="repeatable; default: all"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        part(*arguments.part)
        return 0
    drivers = arguments.driver or ["uring", "epoll", "poll"]
    return max(soak(arguments.connections, arguments.seconds, arguments.seed, driver) for driver in drivers)


if __name__ == "__main__":
    sys.exit(main())
