"""Runs a program, on the model or on the real scheduler, and logs everything that can be seen from outside.

Both run through the same code here. A script is a generator: on the model it yields whenever another tasklet goes on;
on the real scheduler the calls themselves switch, and it never yields.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from functools import partial
from inspect import isgenerator
from typing import TYPE_CHECKING, Any

from model.program import CATCHES, Call, Program
from model.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from model.tasklets import Switching

# Scripts can start each other again and again; after so many calls all of them end.
MAX_CALLS = 300


class World:
    """A program and the things it is about: tasklets, channels, and the log of what happens to them."""

    def __init__(self, program: Program, module: Any, drive: Callable[[Switching], Any]) -> None:
        """Make channels and tasklets with `module`; `drive` is what makes a generator an ordinary call, if need be."""
        self.program, self.module = program, module
        self.log: list[str] = []
        self.over = False
        self._left = MAX_CALLS
        self.main = module.getcurrent()
        self.channels = [module.channel() for _ in program.channels]
        for channel, (preference, schedule_all) in zip(self.channels, program.channels, strict=True):
            channel.preference, channel.schedule_all = preference, schedule_all
        self._functions = [partial(_driven, drive, self._script, body.calls) for body in program.bodies]
        self.tasklets = [module.tasklet() for _ in program.bodies]
        callbacks = {
            "watch_switch": self._watch_switch,
            "watch_switch_fail": self._watch_switch_fail,
            "watch_channel": self._watch_channel,
            "handle": partial(_driven, drive, self._handle),
            "handle_fail": partial(_driven, drive, self._handle_fail),
            "handle_schedule": partial(_driven, drive, self._handle_schedule),
        }
        self._names: Mapping[int, str] = {
            id(self.main): "main",
            **{id(callback): name for name, callback in callbacks.items()},
            **{id(tasklet): f"t{number}" for number, tasklet in enumerate(self.tasklets)},
            **{id(channel): f"c{number}" for number, channel in enumerate(self.channels)},
            **{id(function): f"f{number}" for number, function in enumerate(self._functions)},
        }
        for tasklet, function, body in zip(self.tasklets, self._functions, program.bodies, strict=True):
            if body.start != "empty":
                tasklet.bind(function, () if body.start == "paused" else None)
            if body.start == "setup":
                tasklet.setup()
        self.names = {
            "stackless": module,
            "t": self.tasklets,
            "c": self.channels,
            "f": self._functions,
            # A builtin in Stackless, and an attribute of the model, which leaves the builtins alone.
            "TaskletExit": getattr(module, "TaskletExit", None) or vars(builtins)["TaskletExit"],
            "fail": fail,
            **callbacks,
        }

    # ---- scripts -----------------------------------------------------------------------------------------------------

    def play_main(self) -> Switching:
        """Run the script of the main tasklet, then note what is left."""
        yield from self._script(self.program.main)
        self.note("end")
        self.over = True

    def _script(self, calls: tuple[Call, ...]) -> Switching:
        me = self.module.getcurrent()
        who = self.name(me)
        for call in calls:
            if self.over or not self._left:
                return
            self._left -= 1
            try:
                result = self._evaluate(call)
                if isgenerator(result):
                    result = yield from result
            except GeneratorExit:
                raise
            except BaseException as error:
                self.note(f"{who}: {call.text} raised {type(error).__name__}: {error}")
                if me is not self.main and not isinstance(error, CATCHES[call.catch]):
                    raise
            else:
                self.note(f"{who}: {call.text} -> {self.show(result)}")

    def _evaluate(self, call: Call) -> Any:
        if not call.trapped:
            return eval(call.text, self.names)
        return self._evaluate_trapped(call)

    def _evaluate_trapped(self, call: Call) -> Any:
        self.module.switch_trap(1)
        try:
            result = eval(call.text, self.names)
            if isgenerator(result):
                # Under the trap nothing switches, so the model's generator ends without having yielded.
                result = _run_to_end(result)
        finally:
            self.module.switch_trap(-1)
        return result

    # ---- callbacks ---------------------------------------------------------------------------------------------------

    def _watch_switch(self, prev: Any, follower: Any) -> None:
        current = self.name(self.module.getcurrent())
        self.note(f"switch {self.name(prev)} to {self.name(follower)}, current {current}", in_switch=True)

    def _watch_switch_fail(self, prev: Any, follower: Any) -> None:
        self._watch_switch(prev, follower)
        raise LookupError(f"{self.name(prev)} to {self.name(follower)}")

    def _watch_channel(self, channel: Any, tasklet: Any, sending: int, will_block: int) -> None:
        self.note(f"channel {self.name(channel)} {self.name(tasklet)} sending={sending} will_block={will_block}")

    def _handle(self, kind: Any, error: Any, _traceback: Any) -> Switching:
        self.note(f"handler in {self.name(self.module.getcurrent())}: {kind.__name__}: {error}")
        yield from ()

    def _handle_fail(self, kind: Any, error: Any, traceback: Any) -> Switching:
        yield from self._handle(kind, error, traceback)
        raise LookupError(f"handler of {error}")

    def _handle_schedule(self, kind: Any, error: Any, traceback: Any) -> Switching:
        yield from self._handle(kind, error, traceback)
        result = self.module.schedule("handler")
        if isgenerator(result):
            result = yield from result
        self.note(f"handler in {self.name(self.module.getcurrent())} goes on with {self.show(result)}")

    def unraisable(self, error: BaseException | None) -> None:
        """Note an exception that a callback raised."""
        self.note(f"unraisable {type(error).__name__}: {error}", in_switch=True)

    # ---- the log -----------------------------------------------------------------------------------------------------

    def note(self, event: str, in_switch: bool = False) -> None:
        """Add an event to the log, with the state that things are in now."""
        if not self.over:
            self.log.append(f"{event} | {self.state(in_switch)}")

    def name(self, thing: Any) -> str:
        """Return what a tasklet, a channel or a script is called."""
        return self._names.get(id(thing)) or ("None" if thing is None else f"stranger {thing!r}")

    def show(self, value: Any) -> str:
        """Return a value as text that is the same on both sides."""
        if id(value) in self._names:
            return self._names[id(value)]
        return "bomb" if isinstance(value, self.module.bomb) else repr(value)

    def state(self, in_switch: bool) -> str:
        """Return the state of the ring, of all channels and of all tasklets."""
        # In the middle of a switch the ring is not the one of before, and not that of after.
        ring = "" if in_switch else " ".join(map(self.name, self._ring()))
        channels = " ".join(map(self._channel_state, self.channels))
        tasklets = " ".join(map(self._tasklet_state, [self.main, *self.tasklets]))
        return f"{self.module.getruncount()} [{ring}] {channels} {tasklets}"

    def _ring(self) -> Iterator[Any]:
        first = tasklet = self.module.getcurrent()
        while tasklet is not None:
            yield tasklet
            tasklet = tasklet.next
            if tasklet is first:
                return

    def _channel_state(self, channel: Any) -> str:
        waiting, tasklet = [], channel.queue
        while tasklet is not None:
            waiting.append(self.name(tasklet))
            tasklet = tasklet.next
        flags = "closed" if channel.closed else "closing" if channel.closing else ""
        return f"{self.name(channel)}:{channel.balance}{waiting or ''}{flags}"

    def _tasklet_state(self, tasklet: Any) -> str:
        words = [word for word in ("alive", "blocked", "scheduled", "paused", "is_current") if getattr(tasklet, word)]
        letters = "".join(word[0] for word in words) or "-"
        if tasklet.block_trap:
            letters += "!"
        channel = f"@{self.name(tasklet._channel)}" if tasklet.blocked else ""
        value = f"={self.show(tasklet.tempval)}" if tasklet.tempval is not None else ""
        return f"{self.name(tasklet)}:{letters}{channel}{value}"


def fail(text: str) -> None:
    """Raise an error; what a script does that ends with one."""
    raise ValueError(text)


def _driven(drive: Callable[[Switching], Any], script: Callable[..., Switching], *args: Any) -> Any:
    return drive(script(*args))


def _run_to_end(script: Switching) -> Any:
    """Run a generator that must not yield, and return what it returns."""
    try:
        next(script)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("switched where nothing may switch")


def run_on_model(program: Program) -> list[str]:
    """Run a program on the model and return its log."""
    scheduler = Scheduler()
    world = World(program, scheduler, lambda script: script)
    scheduler.unraisable = world.unraisable
    scheduler.play(world.play_main())
    return world.log


def run_on_real(program: Program) -> list[str]:
    """Run a program on the real scheduler of this thread and return its log. Ends what the program leaves behind."""
    import stackless

    world = World(program, stackless, _run_to_end)
    old_hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: world.unraisable(unraisable.exc_value)
    try:
        _run_to_end(world.play_main())
    finally:
        world.over = True
        clean_up(world, stackless)
        sys.unraisablehook = old_hook
    return world.log


def clean_up(world: World, stackless: Any) -> None:
    """Take back all that a program may have set, and end its tasklets; what cannot be ended is logged."""
    stackless.set_schedule_callback(None)
    stackless.set_channel_callback(None)
    stackless.set_error_handler(None)
    stackless.getcurrent().block_trap = False
    stackless.getcurrent().tempval = None
    for tasklet in world.tasklets:
        # Errors of others, whom the program left runnable, may still arrive; the tasklet is then killed all the same.
        while tasklet.alive:
            with contextlib.suppress(BaseException):
                tasklet.kill()
    left = [world.name(tasklet) for tasklet in world.tasklets if tasklet.alive]
    if left or stackless.getruncount() != 1 or any(channel.balance for channel in world.channels):
        world.log.append(f"left behind: {left}, runcount {stackless.getruncount()}")


def difference(expected: list[str], seen: list[str]) -> str:
    """Return where two logs part, with what led there; empty if they don't."""
    for number, (right, wrong) in enumerate(zip([*expected, "nothing more"], [*seen, "nothing more"], strict=False)):
        if right != wrong:
            before = "".join(f"  {line}\n" for line in expected[max(0, number - 4) : number])
            return f"{before}  expected: {right}\n  but got:  {wrong}"
    return ""
