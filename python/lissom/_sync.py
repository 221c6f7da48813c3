"""Locks, conditions, events, semaphores and barriers that only the calling tasklet waits for.

They are the standard library's own classes on top of `Lock`, so they have its interface, and ``isinstance`` holds.
After
``lissom.hook()`` those of `threading` do the same; these do it without a hook, too.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lissom._core import Lock, getcurrent

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from lissom._core import tasklet


class RLock:
    """A lock that the tasklet that holds it may take again.

    Used as ``threading.RLock``: it belongs to a tasklet, not to a thread. Waiting switches; those who wait are
    served in
    the order in which they came.
    """

    def __init__(self) -> None:
        self._block = Lock()
        self._owner: tasklet | None = None
        self._count = 0

    def __repr__(self) -> str:
        state = "locked" if self._count else "unlocked"
        return f"<{state} lissom.RLock object owner={self._owner!r} count={self._count} at {id(self):#x}>"

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, at once if the caller has it already; see `Lock.acquire` for the arguments and errors."""
        me = getcurrent()
        if self._owner is me:
            self._count += 1
            return True
        taken = self._block.acquire(blocking, timeout)
        if taken:
            self._owner = me
            self._count = 1
        return taken

    def release(self) -> None:
        """Give the lock back once; raise ``RuntimeError`` if the calling tasklet does not have it. Never switches."""
        if self._owner is not getcurrent():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._block.release()

    def locked(self) -> bool:
        """Return whether somebody has the lock."""
        return self._count > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    # What `threading.Condition` asks of a lock.

    def _at_fork_reinit(self) -> None:
        self._block._at_fork_reinit()  # type: ignore[attr-defined]
        self._owner = None
        self._count = 0

    def _is_owned(self) -> bool:
        return self._owner is getcurrent()

    def _recursion_count(self) -> int:
        return self._count if self._is_owned() else 0

    def _release_save(self) -> tuple[int, tasklet | None]:
        if not self._count:
            raise RuntimeError("cannot release un-acquired lock")
        saved = self._count, self._owner
        self._count, self._owner = 0, None
        self._block.release()
        return saved

    def _acquire_restore(self, saved: tuple[int, tasklet | None]) -> None:
        self._block.acquire()
        self._count, self._owner = saved


class Condition(threading.Condition):
    """A condition variable: ``threading.Condition``, except that only the calling tasklet waits.

    ``lock`` is a `Lock` or `RLock`; a new `RLock` if it is missing. A tasklet that is killed or timed out while
    it waits
    takes the lock again first, so that the ``with`` block can give it back.
    """

    _waiters: deque[Lock]

    def __init__(self, lock: Lock | RLock | None = None) -> None:
        super().__init__(lock if lock is not None else RLock())  # type: ignore[arg-type]

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back, wait to be notified, at most `timeout` seconds, and take the lock again.

        Switches. Returns whether there was a notification. Raises ``RuntimeError`` if the caller does not
        have the lock.
        """
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot wait on un-acquired lock")
        waiter = Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        saved = self._release_save()  # type: ignore[attr-defined]
        notified = False
        try:
            if timeout is None:
                notified = waiter.acquire()
            elif timeout <= 0:
                notified = waiter.acquire(blocking=False)
            else:
                notified = waiter.acquire(timeout=timeout)
            return notified
        finally:
            _take_again(self, saved)
            if not notified:
                try:
                    self._waiters.remove(waiter)
                except ValueError:
                    # Notified in the same moment as it was ended: that is somebody else's.
                    self.notify()


def _take_again(condition: Condition, saved: Any) -> None:
    """Take the lock of a condition again, whatever is thrown into the tasklet meanwhile; raise that afterwards."""
    thrown: BaseException | None = None
    while True:
        try:
            condition._acquire_restore(saved)  # type: ignore[attr-defined]
        except BaseException as exception:  # noqa: BLE001 - raised below
            thrown = exception
        else:
            break
    if thrown is not None:
        raise thrown


class Event(threading.Event):
    """A flag to wait for: ``threading.Event``, except that only the calling tasklet waits."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = Condition(Lock())


class Semaphore(threading.Semaphore):
    """A counter of permits: ``threading.Semaphore``, except that only the calling tasklet waits."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._cond = Condition(Lock())


class BoundedSemaphore(threading.BoundedSemaphore):
    """A `Semaphore` that raises ``ValueError`` when more permits are given back than there were."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._cond = Condition(Lock())


class Barrier(threading.Barrier):
    """A meeting point for a number of tasklets: ``threading.Barrier``, except that only the calling tasklet waits."""

    def __init__(self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None) -> None:
        super().__init__(parties, action, timeout)  # type: ignore[arg-type]
        self._cond = Condition(Lock())
