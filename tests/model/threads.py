"""Programs whose tasklets live on several OS threads. Their order is nobody's to say; what always holds is checked.

Each thread has a scheduler and tasklets of its own; all share the channels, and insert, run, remove, kill and throw
into each other's tasklets. Two families:

*balanced*: nobody is killed, and as many values are sent as received on each channel. Each tasklet only sends or only
receives on a channel, and goes through the channels in their order, so that the program cannot get stuck: on the first
channel on which anything is left to do, everybody arrives at last. The threads wait in a channel for the end of their
tasklets. Everything that is sent must arrive, and everybody must end.

*wild*: scripts do anything to anybody. The threads ask again and again for their tasklets to be run, until nothing has
happened for two rounds of all of them. Then who still lives waits in a channel or is paused; those are killed, or left
to the end of their threads.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

# What a call may raise in a wild program; anything else is a mistake.
EXPECTED_ERRORS = {
    "KeyError: 'poke'",
    "RuntimeError: You cannot run a blocked tasklet",
    "RuntimeError: You cannot run an unbound(dead) tasklet",
    "RuntimeError: You cannot remove a blocked tasklet.",
    "RuntimeError: The current tasklet cannot be removed.",
    "RuntimeError: You cannot throw to a dead tasklet",
}
# What a wild script does beside sending and receiving, with its weight; the argument is the number of a tasklet.
WILD = {"schedule": 4, "insert": 2, "run": 2, "remove": 1, "kill": 1, "kill_pending": 1, "poke": 1, "poke_pending": 1}

Step = tuple[str, int]


@dataclass(frozen=True)
class ThreadedProgram:
    """Tasklets as (thread, paused at first?, steps); a step is a kind and the number of a channel or a tasklet."""

    family: str
    threads: int
    channels: tuple[tuple[int, int], ...]
    tasklets: tuple[tuple[int, bool, tuple[Step, ...]], ...]
    abandon: bool = False  # wild programs: the threads end with who is still alive
    note: str = ""

    def dump(self) -> str:
        """Return it as JSON in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> ThreadedProgram:
        """Return the program that `dump` made the text of."""
        fields = json.loads(text)
        fields["channels"] = tuple(map(tuple, fields["channels"]))
        fields["tasklets"] = tuple(
            (thread, paused, tuple((kind, number) for kind, number in steps))
            for thread, paused, steps in fields["tasklets"]
        )
        return cls(**fields)


def generate(seed: int) -> ThreadedProgram:
    """Return the program of a seed, always the same."""
    random = Random(seed)
    threads = random.choice((2, 2, 3))
    channels = tuple(
        (random.choice((-1, -1, 0, 1)), int(random.random() < 0.15)) for _ in range(random.choice((1, 2, 3)))
    )
    family = random.choice(("balanced", "wild"))
    make = _balanced if family == "balanced" else _wild
    return ThreadedProgram(
        family, threads, channels, make(random, threads, len(channels)), random.random() < 0.3, f"seed {seed}"
    )


def _balanced(random: Random, threads: int, channels: int) -> tuple[tuple[int, bool, tuple[Step, ...]], ...]:
    count = random.randrange(2, 9)
    steps: list[list[Step]] = [[] for _ in range(count)]
    for channel in range(channels):
        border, values = random.randrange(1, count), random.randrange(12)
        order = random.sample(range(count), count)
        for kind, several in (("send", order[:border]), ("receive", order[border:])):
            for tasklet, share in zip(several, _split(random, values, len(several)), strict=True):
                for _ in range(share):
                    steps[tasklet].append((kind, channel))
                    if random.random() < 0.2:
                        steps[tasklet].append(("schedule", 0))
    # Who is paused at first is inserted, or run, by one who is not, before that one does anything else.
    paused = [number > 0 and random.random() < 0.3 for number in range(count)]
    awake = [number for number in range(count) if not paused[number]]
    for number in range(count):
        if paused[number]:
            steps[random.choice(awake)].insert(0, (random.choice(("insert", "run")), number))
    return tuple((random.randrange(threads), paused[number], tuple(steps[number])) for number in range(count))


def _split(random: Random, total: int, parts: int) -> list[int]:
    shares = [0] * parts
    for _ in range(total):
        shares[random.randrange(parts)] += 1
    return shares


def _wild(random: Random, threads: int, channels: int) -> tuple[tuple[int, bool, tuple[Step, ...]], ...]:
    count = random.randrange(2, 10)
    others = random.sample(list(WILD), random.randrange(1, len(WILD) + 1))
    kinds = ["send", "receive", *others]
    weights = [8, 8, *(WILD[kind] for kind in others)]

    def step() -> Step:
        kind = random.choices(kinds, weights)[0]
        return kind, random.randrange(channels if kind in {"send", "receive"} else count)

    return tuple(
        (random.randrange(threads), random.random() < 0.1, tuple(step() for _ in range(random.randrange(10))))
        for _ in range(count)
    )


class Event:
    """One step of a tasklet: what it was, the value, and how it ended, None until it does."""

    __slots__ = ("kind", "number", "outcome", "value")

    def __init__(self, kind: str, number: int, value: int) -> None:
        self.kind, self.number, self.value = kind, number, value
        self.outcome: str | None = None


class Run:
    """One run of a threaded program on the real scheduler."""

    def __init__(self, program: ThreadedProgram, stackless: Any) -> None:
        self.program, self.stackless = program, stackless
        self.channels = [stackless.channel() for _ in program.channels]
        for channel, (preference, schedule_all) in zip(self.channels, program.channels, strict=True):
            channel.preference, channel.schedule_all = preference, schedule_all
        self.tasklets: list[Any] = [None] * len(program.tasklets)
        self.events: list[list[Event]] = [[] for _ in program.tasklets]
        self.mistakes: list[str] = []
        self.rounds = [0] * program.threads
        # Rounds that ended early because somebody was poked before its first step, which is no event of its own.
        self.cut_short = [0] * program.threads
        self.finish = threading.Event()
        self._ready = threading.Barrier(program.threads)

    def play(self) -> list[str]:
        """Run it to its end and return what was wrong."""
        threads = [threading.Thread(target=self._guarded, args=[number]) for number in range(self.program.threads)]
        for thread in threads:
            thread.start()
        if self.program.family == "wild":
            self._await_rest()
            self._check_rest()
            self.finish.set()
        for thread in threads:
            thread.join()
        self._check_end()
        return self.mistakes

    # ---- in the threads ----------------------------------------------------------------------------------------------

    def _guarded(self, number: int) -> None:
        try:
            self._thread(number)
        except BaseException as error:  # noqa: BLE001 - must not be lost with the thread
            self.mistakes.append(f"thread {number}: {type(error).__name__}: {error}")
            self._ready.abort()

    def _thread(self, number: int) -> None:
        stackless = self.stackless
        done = stackless.channel()
        mine = [index for index, (thread, _, _) in enumerate(self.program.tasklets) if thread == number]
        for index in mine:
            self.tasklets[index] = stackless.tasklet(self._script, (index, done))
        self._ready.wait()
        for index in mine:
            if not self.program.tasklets[index][1]:
                self.tasklets[index].insert()
        if self.program.family == "balanced":
            for _ in mine:
                done.receive()
            stackless.run()
            return
        while not self.finish.is_set():
            self._run(number)
            self.rounds[number] += 1
            time.sleep(0)
        if not self.program.abandon:
            for index in mine:
                self.tasklets[index].kill()
            self._run(number)
            if stackless.getruncount() != 1:
                self.mistakes.append(f"thread {number}: runcount {stackless.getruncount()} at the end")

    def _run(self, number: int) -> None:
        """Run the tasklets of this thread; who was poked before its first step passes that on."""
        try:
            self.stackless.run()
        except KeyError as error:
            if error.args != ("poke",):
                raise
            self.cut_short[number] += 1

    def _script(self, index: int, done: Any) -> None:
        for position, (kind, number) in enumerate(self.program.tasklets[index][2]):
            event = Event(kind, number, index * 1000 + position)
            self.events[index].append(event)
            try:
                result = self._step(event)
            except BaseException as error:
                event.outcome = f"{type(error).__name__}: {error}"
                if not isinstance(error, Exception):
                    raise
            else:
                if kind == "receive":
                    event.value = result
                event.outcome = ""
        if self.program.family == "balanced":
            done.send(None)

    def _step(self, event: Event) -> Any:
        kind, number = event.kind, event.number
        if kind == "send":
            return self.channels[number].send(event.value)
        if kind == "receive":
            return self.channels[number].receive()
        if kind == "schedule":
            return self.stackless.schedule()
        tasklet = self.tasklets[number]
        name, _, pending = kind.partition("_")
        if name == "poke":
            return tasklet.throw(KeyError, "poke", None, bool(pending))
        return tasklet.kill(bool(pending)) if name == "kill" else getattr(tasklet, name)()

    # ---- from outside ------------------------------------------------------------------------------------------------

    def _await_rest(self) -> None:
        """Return when in two whole rounds of every thread no step has begun or ended, so that none ever will."""
        while not self.mistakes:
            before, start = self._progress(), list(self.rounds)
            while not self.mistakes and any(now < then + 3 for now, then in zip(self.rounds, start, strict=True)):
                time.sleep(0.0002)
            if self._progress() == before:
                return

    def _progress(self) -> tuple[int, ...]:
        steps = (len(events) + sum(event.outcome is not None for event in events) for events in self.events)
        return (*self.cut_short, *steps)

    def _check_rest(self) -> None:
        """Compare the channels with who says to be in them."""
        for number, channel in enumerate(self.channels):
            queue, tasklet = [], channel.queue
            while tasklet is not None:
                queue.append(self.tasklets.index(tasklet))
                tasklet = tasklet.next
            waiting = {
                index for index, tasklet in enumerate(self.tasklets) if tasklet.alive and tasklet._channel is channel
            }
            directions = {self.events[index][-1].kind for index in queue}
            sign = 1 if directions == {"send"} else -1
            if set(queue) != waiting or len(queue) != len(waiting) or len(directions) > 1:
                self.mistakes.append(f"c{number}: queue {queue}, waiting {waiting}, {directions}")
            if channel.balance != sign * len(queue):
                self.mistakes.append(f"c{number}: balance {channel.balance}, queue {queue}")
        for index, tasklet in enumerate(self.tasklets):
            if tasklet.alive and not (tasklet.blocked or tasklet.paused):
                self.mistakes.append(f"t{index} is neither blocked nor paused nor dead, but nothing goes on")
        received = {event.value for event in self._all("receive", "")}
        for index, events in enumerate(self.events):
            if events and events[-1].kind == "send" and self.tasklets[index].blocked and events[-1].value in received:
                self.mistakes.append(f"t{index} waits to send {events[-1].value}, which was received")

    def _check_end(self) -> None:
        """Check what holds for all that was sent and received, and that nobody is left."""
        for index, tasklet in enumerate(self.tasklets):
            if tasklet is not None and tasklet.alive:
                self.mistakes.append(f"t{index} is alive at the end")
        for number, channel in enumerate(self.channels):
            if channel.balance or channel.queue is not None:
                self.mistakes.append(f"c{number}: balance {channel.balance}, queue {channel.queue} at the end")
            self._check_values(number)
        balanced = self.program.family == "balanced"
        for index, events in enumerate(self.events):
            if balanced and len(events) != len(self.program.tasklets[index][2]):
                self.mistakes.append(f"t{index} did not do all of its steps")
            for event in events:
                fine = not event.outcome or (
                    not balanced and (event.outcome in EXPECTED_ERRORS or "Exit" in event.outcome)
                )
                if not fine or (balanced and event.outcome is None):
                    self.mistakes.append(f"t{index}: {event.kind} {event.number}: {event.outcome}")

    def _check_values(self, number: int) -> None:
        begun = {event.value for event in self._all("send", None) if event.number == number}
        sent = {event.value for event in self._all("send", "") if event.number == number}
        received = [event.value for event in self._all("receive", "") if event.number == number]
        disturbed = [event for event in self._all("receive", None) if event.number == number and event.outcome != ""]
        if len(received) != len(set(received)) or not begun.issuperset(received):
            self.mistakes.append(f"c{number}: received {received}, sent {begun}")
        # Who is killed between the exchange and its turn takes the value along.
        if len(lost := sent.difference(received)) > len(disturbed):
            self.mistakes.append(f"c{number}: {lost} were sent, but not received")
        for index, events in enumerate(self.events):
            order = [
                event.value for event in events if (event.kind, event.number, event.outcome) == ("receive", number, "")
            ]
            for sender in range(len(self.tasklets)):
                of_sender = [value for value in order if value // 1000 == sender]
                if of_sender != sorted(of_sender):
                    self.mistakes.append(f"c{number}: t{index} received {of_sender}, not in the order they were sent")

    def _all(self, kind: str, outcome: str | None) -> list[Event]:
        """Return all steps of a kind; with `outcome` "" those that succeeded."""
        return [
            event
            for events in self.events
            for event in events
            if event.kind == kind and (outcome is None or event.outcome == outcome)
        ]


def check(program: ThreadedProgram, stackless: Any) -> str:
    """Run a program and return what was wrong, a line for each mistake."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        return "\n".join(Run(program, stackless).play())
    finally:
        sys.setswitchinterval(interval)
