"""Tasklets, channels and bombs of the model: plain data with the attributes that Stackless shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from model.scheduler import Scheduler

    # A call that may switch: it yields whenever another tasklet goes on, and returns what the call returns.
    Switching = Generator[None, None, Any]


class TaskletExit(SystemExit):
    """What `kill` raises; a builtin in Stackless."""


class Bomb:
    """Carries an exception; a tasklet that resumes with a bomb as its `tempval` raises it."""

    def __init__(self, exc: Any, value: Any = None) -> None:
        self.exc, self.value = exc, value

    def explode(self) -> BaseException:
        """Return the exception to raise, made as ``raise exc(value)`` makes it."""
        if isinstance(self.exc, BaseException):
            return self.exc
        if self.value is None:
            return self.exc()  # type: ignore[no-any-return]
        if isinstance(self.value, BaseException):
            return self.value
        return self.exc(*self.value) if isinstance(self.value, tuple) else self.exc(self.value)  # type: ignore[no-any-return]


class Tasklet:
    """What is scheduled: a routine (a generator), a `tempval`, and a place in the ring, in a channel or nowhere."""

    def __init__(self, scheduler: Scheduler, func: Callable[..., Any] | None = None) -> None:
        self.scheduler = scheduler
        self.routine: Switching | None = None
        self.started = False
        self.tempval: Any = func
        self.block_trap: bool = False
        self.waits: Channel | None = None
        self.direction = 0  # 1: waits to send, -1: waits to receive, 0: is in no channel

    # ---- what can be seen --------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether there is something left to run."""
        return self.routine is not None

    @property
    def blocked(self) -> bool:
        """Whether it waits in a channel."""
        return self.waits is not None

    @property
    def scheduled(self) -> bool:
        """Whether it is in the ring or in a channel; Stackless links both by the same fields."""
        return self.blocked or self in self.scheduler.ring

    @property
    def paused(self) -> bool:
        """Whether it is alive, and neither in the ring nor in a channel."""
        return self.alive and not self.scheduled

    @property
    def is_current(self) -> bool:
        """Whether it is the one that runs."""
        return self is self.scheduler.running

    @property
    def is_main(self) -> bool:
        """Whether it is the main tasklet of the thread."""
        return self is self.scheduler.main

    @property
    def _channel(self) -> Channel | None:
        return self.waits

    @property
    def next(self) -> Tasklet | None:
        """The next one in the ring, or in the queue of the channel, which ends."""
        return self._neighbour(1)

    @property
    def prev(self) -> Tasklet | None:
        """The one before in the ring, or in the queue of the channel, which begins."""
        return self._neighbour(-1)

    def _neighbour(self, step: int) -> Tasklet | None:
        if self.waits is not None:
            place = self.waits.waiting.index(self) + step
            return self.waits.waiting[place] if 0 <= place < len(self.waits.waiting) else None
        ring = self.scheduler.ring
        return ring[(ring.index(self) + step) % len(ring)] if self in ring else None

    # ---- life --------------------------------------------------------------------------------------------------------

    def bind(self, func: Any = None, args: Any = None, kwargs: Any = None) -> Tasklet:
        """Set the function; with arguments, also make it ready to be inserted. PyTasklet_BindEx."""
        if self.is_current:
            raise RuntimeError("can't (re)bind the current tasklet")
        if self.scheduled:
            raise RuntimeError("tasklet is scheduled")
        if self.is_main and args is None and kwargs is None:
            raise RuntimeError("can't unbind the main tasklet")
        if self.alive and self.started:
            raise RuntimeError("tasklet has C state on its stack")
        if args is None and kwargs is None:
            self.routine, self.tempval = None, func
            return self
        func = self.tempval if func is None else func
        if func is None:  # Stackless has dropped the old function and its arguments by now
            raise RuntimeError("the tasklet was not bound to a function")
        self.routine = self.scheduler.life(self, func, args or (), kwargs or {})
        self.started = False
        self.tempval = None
        return self

    def setup(self, *args: Any, **kwargs: Any) -> Tasklet:
        """Give it arguments and put it at the end of the ring."""
        if self.alive:
            raise RuntimeError("tasklet is alive")
        self.bind(None, args, kwargs)
        self.scheduler.append(self)
        return self

    __call__ = setup

    def claim(self) -> Any:
        """Take `tempval` away and return it; a bomb is raised. What every resumed tasklet does first."""
        value, self.tempval = self.tempval, None
        if isinstance(value, Bomb):
            raise value.explode()
        return value

    # ---- scheduling --------------------------------------------------------------------------------------------------

    def insert(self) -> Tasklet:
        """Put it at the end of the ring, if it is in none."""
        if self.blocked:
            raise RuntimeError("You cannot run a blocked tasklet")
        if not self.scheduled:
            if not self.alive:
                raise RuntimeError("You cannot run an unbound(dead) tasklet")
            self.scheduler.append(self)
        return self

    def remove(self) -> Tasklet:
        """Take it out of the ring, if it is there."""
        if self.blocked:
            raise RuntimeError("You cannot remove a blocked tasklet.")
        if self.is_current:
            raise RuntimeError("The current tasklet cannot be removed.")
        if self.scheduled:
            self.scheduler.ring.remove(self)
        return self

    def run(self) -> Switching:
        """Switch to it now; the caller keeps its place."""
        return self.scheduler.switch_to(self, leaving=False)

    def switch(self) -> Switching:
        """Switch to it now; the caller leaves the ring."""
        return self.scheduler.switch_to(self, leaving=True)

    def throw(self, exc: Any, val: Any = None, tb: Any = None, pending: bool = False) -> Switching:
        """Raise an exception in it, at once, or when it next runs if `pending`."""
        return self.scheduler.throw(self, make_bomb(exc, val, tb), pending)

    def raise_exception(self, cls: Any, *args: Any) -> Switching:
        """Raise ``cls(*args)`` in it at once."""
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError("tasklet.raise_exception needs Exception or string subclass as first parameter")
        return self.scheduler.throw(self, Bomb(cls, args), pending=False)

    def kill(self, pending: bool = False) -> Switching:
        """Raise TaskletExit in it."""
        return self.scheduler.throw(self, Bomb(TaskletExit), pending)


class Channel:
    """Tasklets that wait, first come, first served, all to send or all to receive."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.waiting: list[Tasklet] = []
        self.closing = False
        self.preference = -1
        self.schedule_all = 0

    @property
    def balance(self) -> int:
        """How many wait to send (> 0) or to receive (< 0)."""
        return sum(tasklet.direction for tasklet in self.waiting)

    @property
    def closed(self) -> bool:
        """Whether it is closing and nobody waits any more."""
        return self.closing and not self.waiting

    @property
    def queue(self) -> Tasklet | None:
        """The one that waits longest."""
        return self.waiting[0] if self.waiting else None

    def enter(self, tasklet: Tasklet, direction: int) -> None:
        """Let a tasklet wait at the end."""
        self.waiting.append(tasklet)
        tasklet.waits, tasklet.direction = self, direction

    def leave(self, tasklet: Tasklet) -> None:
        """Take a tasklet out, wherever it stands."""
        self.waiting.remove(tasklet)
        tasklet.waits, tasklet.direction = None, 0

    def close(self) -> None:
        """Let nobody wait here any more who does not wait already."""
        self.closing = True

    def open(self) -> None:
        """Take `close` back."""
        self.closing = False

    def send(self, value: Any) -> Switching:
        """Hand a value to who waits longest to receive, or wait."""
        return self.scheduler.exchange(self, value, 1)

    def receive(self) -> Switching:
        """Take the value of who waits longest to send, or wait."""
        return self.scheduler.exchange(self, None, -1)

    def send_exception(self, cls: Any, *args: Any) -> Switching:
        """Let the receiver raise ``cls(*args)``."""
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError("channel.send_exception needs Exception or string subclass as first parameter")
        return self._send_bomb(Bomb(cls, args))

    def send_throw(self, exc: Any, val: Any = None, tb: Any = None) -> Switching:
        """Let the receiver raise an exception, as `Tasklet.throw` has it."""
        return self._send_bomb(make_bomb(exc, val, tb))

    def _send_bomb(self, bomb: Bomb) -> Switching:
        # Unlike send(), it does not return what stands in `tempval` when the sender goes on.
        yield from self.scheduler.exchange(self, bomb, 1)

    def send_sequence(self, sequence: Any) -> Switching:
        """Send everything in `sequence`, one after another."""
        count = 0
        for value in sequence:
            yield from self.send(value)
            count += 1
        return count

    def __iter__(self) -> Channel:
        return self

    def __next__(self) -> Any:
        if self.closing and self.balance <= 0:
            raise StopIteration
        return self.receive()


def make_bomb(exc: Any, val: Any, tb: Any) -> Bomb:
    """Check the arguments of `throw` and `send_throw`. slp_exc_to_bomb."""
    if tb is not None:
        raise TypeError("third argument must be a traceback object")
    if isinstance(exc, type) and issubclass(exc, BaseException):
        return Bomb(exc, val)
    if not isinstance(exc, BaseException):
        raise TypeError(f"exceptions must be classes, or instances, not {type(exc).__name__}")
    if val is not None:
        raise TypeError("instance exception may not have a separate value")
    return Bomb(exc)
