"""What is measured: the cases and, for each, the peers that it applies to, as data."""

from __future__ import annotations

from dataclasses import dataclass

PEERS = {
    "lissom": "Lissom",
    "lissom-spawn": "Lissom, ``spawn``",
    "threads": "OS threads",
    "greenlet": "greenlet",
    "gevent": "gevent",
    "asyncio": "asyncio",
    "asyncio-streams": "asyncio streams",
    "asyncio-protocol": "asyncio Protocol",
    "uvloop": "uvloop",
    "uvloop-streams": "uvloop streams",
    "uvloop-protocol": "uvloop Protocol",
    "native": "native epoll (Rust)",
}
"""The peers by name, with their names in the report, in its order."""


@dataclass(frozen=True)
class Case:
    """One table of the report."""

    name: str
    group: str
    """What a case belongs to: ``micro``, ``echo`` or ``http``."""
    title: str
    unit: str
    figure: str
    """Which of the figures that a run prints is the result; less is better."""
    peers: tuple[str, ...]
    script: str = ""
    size: int = 0
    """Tasklets, threads ... of a micro case; connections of the others."""
    sizes: tuple[tuple[str, int], ...] = ()
    """Peers that cannot have that many, and how many they have."""
    target: float | None = None
    note: str = ""

    def size_for(self, peer: str) -> int:
        """How many of ``peer``."""
        return dict(self.sizes).get(peer, self.size)


GREEN = ("greenlet", "gevent", "asyncio", "uvloop")
ECHO = (
    "lissom",
    "lissom-spawn",
    "threads",
    "gevent",
    "asyncio-streams",
    "asyncio-protocol",
    "uvloop-streams",
    "uvloop-protocol",
    "native",
)

SWITCH_NOTE = (
    "greenlet passes the processor on directly, in a ring, without any scheduler: its cheapest form. "
    "OS threads wake each other through locks."
)


def _switch(size: int, peers: tuple[str, ...], target: float | None = None) -> Case:
    title = f"Switch: one hop of ``schedule()`` among {size:,} tasklets, CPU time"
    return Case(
        f"switch-{size}", "micro", title, "ns", "cpu_ns", peers, "switch", size, target=target, note=SWITCH_NOTE
    )


def _echo(size: int) -> Case:
    many = f"{size:,} connection{'s' * (size > 1)}"
    title = f"TCP echo of 1 KiB, {many}: server CPU per message"
    target = 5.0 if size == 64 else None
    return Case(f"echo-{size}", "echo", title, "µs", "cpu_us", ECHO, size=size, target=target)


def _http(size: int) -> Case:
    title = f"The stdlib's ``http.server``, {size:,} connections: server CPU per request"
    return Case(f"http-{size}", "http", title, "µs", "cpu_us", ("lissom", "threads", "gevent"), size=size)


CASES = (
    _switch(100, ("lissom", "threads", *GREEN), target=60),
    _switch(2, ("lissom", "threads", *GREEN)),
    _switch(10_000, ("lissom", *GREEN)),
    Case(
        "channel",
        "micro",
        "Channel: one message, one way, CPU time",
        "ns",
        "cpu_ns",
        ("lissom", "threads", "gevent", "asyncio", "uvloop"),
        "channel",
        target=120,
        note="Peers: ``queue.Queue(1)``, ``gevent.queue.Channel``, ``asyncio.Queue(1)``.",
    ),
    Case(
        "spawn",
        "micro",
        "Spawn, run and finish, 1,000 at a time, CPU time",
        "ns",
        "cpu_ns",
        ("lissom", "threads", *GREEN),
        "spawn",
        1_000,
        target=500,
        note="greenlet starts one at a time.",
    ),
    Case(
        "memory",
        "micro",
        "Memory for each of 100,000 that are parked",
        "bytes",
        "bytes",
        ("lissom", "threads", "greenlet", "gevent", "asyncio"),
        "memory",
        100_000,
        sizes=(("threads", 5_000),),
        target=5 * 1024,
        note=(
            "VmRSS and VmPTE in a fresh process. 5,000 OS threads; their kernel stacks, 16 KiB each, are not "
            "in the figure."
        ),
    ),
    Case(
        "pingpong",
        "micro",
        "Socket pair: one round trip of a byte, CPU time",
        "ns",
        "cpu_ns",
        ("lissom", "threads", "gevent", "asyncio", "uvloop"),
        "pingpong",
        target=5_000,
        note="asyncio and uvloop: streams.",
    ),
    Case(
        "timeout",
        "micro",
        "One timeout set and cancelled, by a receive that waits, CPU time",
        "ns",
        "cpu_ns",
        ("lissom", "gevent", "asyncio", "uvloop"),
        "timeout",
        target=100,
        note="What it adds to one of the two waits of a round trip. asyncio and uvloop: ``asyncio.timeout``.",
    ),
    *(_echo(size) for size in (1, 64, 1_000, 10_000)),
    *(_http(size) for size in (64, 1_000)),
)
