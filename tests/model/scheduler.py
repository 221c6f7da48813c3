"""The scheduler of Stackless, one thread of it, written to be compared with and not to be fast.

Everything that Stackless does is here in the order in which its sources do it; names of its C functions say which.
The ring is a list whose first element runs and whose last one is the "end" of the documentation. A call that may
switch is a generator: where C code returns from a switch, it has yielded and was resumed. The program's main tasklet
is a generator as well, so that `play` only ever resumes the routine of whoever is current.

Left out: interrupts by run()'s timeout (with one that is never reached, run() does the same as without), other threads,
and `SystemExit`, which ends the process. Four places differ from the C sources, which are wrong there:

* A tasklet that switches to itself keeps its place. (slp_current_remove makes the next one current while it runs.)
* A deadlock error leaves the `tempval` of the main tasklet alone. (schedule_task_block drops what main is sending.)
* `bind` with arguments, but without a function, fails before it changes anything. (PyTasklet_BindEx has dropped the
  frame by then.)
* When the last tasklet that can run waits to send an exception, whoever is woken by that does not raise it as well.
  (schedule_task_block passes the bomb on and leaves it in the channel, too.)
"""

from __future__ import annotations

from inspect import isgenerator
from typing import TYPE_CHECKING, Any

from model.tasklets import Bomb, Channel, Tasklet, TaskletExit

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.tasklets import Switching

DEADLOCK = "Deadlock: the last runnable tasklet cannot be blocked."
MAIN_RECEIVES = "the main tasklet is receiving without a sender available."
MAIN_SENDS = "the main tasklet is sending without a receiver available."


class Scheduler:
    """A thread's scheduler; its methods have the names of the functions of the module ``stackless``."""

    TaskletExit = TaskletExit
    bomb = Bomb

    def __init__(self) -> None:
        self.main = Tasklet(self)
        self.ring = [self.main]
        self.running = self.main
        self.watchdogs: list[Tasklet] = []  # the callers of run(), innermost last
        self.trap_level = 0
        self.in_callback = False
        self.schedule_callback: Callable[..., Any] | None = None
        self.channel_callback: Callable[..., Any] | None = None
        self.error_handler: Callable[..., Any] | None = None
        self.unraisable: Callable[[BaseException], None] = lambda error: None

    def play(self, main: Switching) -> None:
        """Run `main` as the main tasklet, and with it everything that it starts, until it ends."""
        self.main.routine, self.main.started = main, True
        while True:
            assert self.running is self.ring[0]
            assert self.running.routine is not None
            try:
                next(self.running.routine)
            except StopIteration:
                assert self.running is self.main
                return

    # ---- functions of the module -------------------------------------------------------------------------------------

    def tasklet(self, func: Any = None, args: Any = None, kwargs: Any = None) -> Tasklet:
        """Return a new tasklet."""
        return Tasklet(self).bind(func, args, kwargs)

    def channel(self) -> Channel:
        """Return a new channel."""
        return Channel(self)

    def getcurrent(self) -> Tasklet:
        """Return the tasklet that runs."""
        return self.running

    def getmain(self) -> Tasklet:
        """Return the main tasklet."""
        return self.main

    def getruncount(self) -> int:
        """Return how many are in the ring."""
        return len(self.ring)

    def switch_trap(self, change: int = 0) -> int:
        """Add to the level of the trap and return the old one."""
        self.trap_level, old = self.trap_level + change, self.trap_level
        return old

    def set_schedule_callback(self, callback: Callable[..., Any] | None) -> Any:
        """Set what is called before each switch and return what was set."""
        self.schedule_callback, old = callback, self.schedule_callback
        return old

    def get_schedule_callback(self) -> Any:
        """Return what is called before each switch."""
        return self.schedule_callback

    def set_channel_callback(self, callback: Callable[..., Any] | None) -> Any:
        """Set what is called before each exchange and return what was set."""
        self.channel_callback, old = callback, self.channel_callback
        return old

    def get_channel_callback(self) -> Any:
        """Return what is called before each exchange."""
        return self.channel_callback

    def set_error_handler(self, handler: Callable[..., Any] | None) -> Any:
        """Set what is called for an exception that leaves a tasklet and return what was set."""
        self.error_handler, old = handler, self.error_handler
        return old

    def schedule(self, *retval: Any) -> Switching:
        """Let the next one run; the caller thereby is at the end. PyStackless_Schedule."""
        prev = self.running
        follower = self.ring[1 % len(self.ring)]
        self.check_trap(prev, follower)
        prev.tempval = retval[0] if retval else prev
        return (yield from self.resume(prev, follower))

    def schedule_remove(self, *retval: Any) -> Switching:
        """Leave the ring and let the next one run."""
        prev = self.running
        self.check_trap(prev, self.ring[1] if len(self.ring) > 1 else self.who_wakes(prev))
        prev.tempval = retval[0] if retval else prev
        self.ring.remove(prev)
        return (yield from self.resume(prev, self.first()))

    def run(
        self,
        timeout: int = 0,
        threadblock: bool = False,
        soft: bool = False,
        ignore_nesting: bool = False,
        totaltimeout: bool = False,
    ) -> Switching:
        """Run the others until the ring is empty or an error arrives. PyStackless_RunWatchdogEx."""
        prev = self.running
        self.check_trap(prev, self.ring[1 % len(self.ring)])
        self.watchdogs.append(prev)
        self.ring.remove(prev)
        try:
            yield from self.resume(prev, self.first())
        finally:
            # Whoever is deeper in the list than the one that was woken goes on as well, and finds itself off the list.
            while prev in self.watchdogs:
                popped = self.watchdogs.pop()
                if not popped.scheduled:
                    self.ring.append(popped)

    # ---- switching ---------------------------------------------------------------------------------------------------

    def first(self) -> Tasklet | None:
        """Return the head of the ring."""
        return self.ring[0] if self.ring else None

    def append(self, tasklet: Tasklet) -> None:
        """Put a tasklet that is nowhere at the end of the ring. slp_current_insert."""
        self.ring.append(tasklet)

    def watchdog(self) -> Tasklet:
        """Return who is woken when nobody can run, and who gets errors: run()'s innermost caller. slp_get_watchdog."""
        return self.watchdogs[-1] if self.watchdogs else self.main

    def who_wakes(self, prev: Tasklet) -> Tasklet:
        """Return who runs when `prev`, the last in the ring, leaves it. Nobody that can be woken: `prev` itself."""
        watchdog = self.watchdog()
        return prev if watchdog.scheduled else watchdog

    def check_trap(self, prev: Tasklet, follower: Tasklet) -> None:
        """Refuse a switch under a trap, before anything has changed."""
        if self.trap_level and prev is not follower:
            raise RuntimeError("switch_trap")

    def resume(self, prev: Tasklet, follower: Tasklet | None) -> Switching:
        """Let `follower` run, and when `prev` runs again, return its `tempval` or raise it. slp_schedule_task."""
        if follower is None:
            follower = self.nobody_left(prev)
        if follower.waits is not None:
            follower.waits.leave(follower)
            self.ring.append(follower)
        elif not follower.scheduled:
            self.ring.append(follower)
        if prev is not follower:
            self.notify_schedule(prev, follower)
            place = self.ring.index(follower)
            self.ring = self.ring[place:] + self.ring[:place]
            self.running = follower
            yield
        return prev.claim()

    def nobody_left(self, prev: Tasklet) -> Tasklet:
        """Return who runs when the ring is empty: who can be woken, or `prev` with an error. schedule_task_block."""
        watchdog = self.watchdog()
        if not watchdog.scheduled:
            return watchdog
        prev.tempval = Bomb(RuntimeError(DEADLOCK))
        return prev

    def notify_schedule(self, prev: Tasklet, follower: Tasklet) -> None:
        """Call the schedule callback; what it raises goes to nobody. slp_call_schedule_fasthook."""
        if self.schedule_callback is None:
            return
        self.in_callback = True
        try:
            self.schedule_callback(prev, follower)
        except BaseException as error:  # noqa: BLE001 - whatever it raises
            self.unraisable(error)
        self.in_callback = False

    def switch_to(self, target: Tasklet, leaving: bool) -> Switching:
        """Do ``target.run()``, or ``target.switch()`` if `leaving`. impl_tasklet_run_remove."""
        prev = self.running
        if target is prev:
            return prev.claim()
        if target.blocked or not target.alive:
            target.insert()  # raises
        self.check_trap(prev, target)
        target.insert()
        if leaving:
            self.ring.remove(prev)
        return (yield from self.resume(prev, target))

    def throw(self, target: Tasklet, bomb: Bomb, pending: bool) -> Switching:
        """Raise an exception in a tasklet. _impl_tasklet_throw_bomb."""
        prev = self.running
        if target is prev:
            raise bomb.explode()
        if not target.alive:
            kind = bomb.exc if isinstance(bomb.exc, type) else type(bomb.exc)
            if issubclass(kind, TaskletExit):
                return None
            raise RuntimeError("You cannot throw to a dead tasklet")
        if not pending:
            self.check_trap(prev, target)
            target.tempval = bomb
            return (yield from self.resume(prev, target))
        target.tempval = bomb
        if target.waits is not None:
            target.waits.leave(target)
        target.insert()
        return None

    # ---- channels ----------------------------------------------------------------------------------------------------

    def exchange(self, channel: Channel, value: Any, direction: int) -> Switching:
        """Send (1) or receive (-1). generic_channel_action."""
        source = self.running
        can = channel.balance * direction < 0
        before, source.tempval = source.tempval, value
        self.notify_channel(channel, source, direction, not can)
        try:
            if can:
                follower = self.after_exchange(channel, source, channel.waiting[0], direction)
                self.check_trap(source, follower)
            else:
                self.check_wait(channel, source)
        except (RuntimeError, ValueError):
            source.tempval = before
            raise
        if not can:
            self.ring.remove(source)
            channel.enter(source, direction)
            return (yield from self.resume(source, self.first()))
        target = channel.waiting[0]
        channel.leave(target)
        source.tempval, target.tempval = target.tempval, source.tempval
        if follower is target and not channel.schedule_all:
            self.ring.insert(1, target)
        else:
            self.ring.append(target)
        return (yield from self.resume(source, follower))

    def after_exchange(self, channel: Channel, source: Tasklet, target: Tasklet, direction: int) -> Tasklet:
        """Return who goes on after an exchange with `target`, who waits. generic_channel_cando."""
        if channel.schedule_all:
            return self.ring[1] if len(self.ring) > 1 else target
        return target if channel.preference == -direction else source

    def check_wait(self, channel: Channel, source: Tasklet) -> None:
        """Raise what keeps a tasklet from waiting. generic_channel_block."""
        if source.block_trap:
            raise RuntimeError("this tasklet does not like to be blocked.")
        if channel.closing:
            raise ValueError("Send/receive operation on a closed channel")
        self.check_trap(source, self.ring[1] if len(self.ring) > 1 else self.who_wakes(source))

    def notify_channel(self, channel: Channel, source: Tasklet, direction: int, will_block: bool) -> None:
        """Call the channel callback. NOTIFY_CHANNEL."""
        if self.channel_callback is None:
            return
        if self.in_callback:
            raise RuntimeError("Recursive channel call due to callbacks!")
        self.in_callback = True
        self.channel_callback(channel, source, int(direction > 0), int(will_block))
        self.in_callback = False

    # ---- life of a tasklet -------------------------------------------------------------------------------------------

    def life(self, tasklet: Tasklet, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Switching:
        """Do all that a tasklet does, from its first resumption to its end. slp_run_tasklet."""
        tasklet.started = True
        outcome: Any = None
        try:
            tasklet.claim()  # an exception that was thrown before the start
            outcome = func(*args, **kwargs)
            if isgenerator(outcome):
                outcome = yield from outcome
        except TaskletExit:
            outcome = None
        except GeneratorExit:  # the program is over
            raise
        except BaseException as error:  # noqa: BLE001 - whatever leaves the tasklet
            outcome = yield from self.handle(error)
        yield from self.end(tasklet, outcome)

    def handle(self, error: BaseException) -> Switching:
        """Give an exception to the error handler; return None, or the bomb to deliver. PyStackless_CallErrorHandler."""
        if self.error_handler is None:
            return Bomb(error)
        try:
            answer = self.error_handler(type(error), error, error.__traceback__)
            if isgenerator(answer):
                yield from answer
        except GeneratorExit:
            raise
        except BaseException as second:  # noqa: BLE001 - is delivered instead
            return Bomb(second)
        return None

    def end(self, tasklet: Tasklet, outcome: Any) -> Switching:
        """Leave the ring for good and let the next one run, or wake who gets the error. slp_tasklet_end."""
        self.ring.remove(tasklet)
        tasklet.routine = None
        follower = self.first()
        if follower is None:
            follower = self.watchdog()
            if follower.waits is not None and not isinstance(outcome, Bomb):
                outcome = Bomb(RuntimeError(MAIN_RECEIVES if follower.direction < 0 else MAIN_SENDS))
        if isinstance(outcome, Bomb):
            follower = self.watchdog()
            follower.tempval = outcome
        tasklet.tempval = None
        yield from self.resume(tasklet, follower)
