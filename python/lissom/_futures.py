"""Futures of tasklets, an executor, and waiting for several things at once."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from lissom._core import _join_any, join, spawn, tasklet
from lissom._sync import Condition, Event, Semaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_P = ParamSpec("_P")
_R = TypeVar("_R")

Thing = tasklet | concurrent.futures.Future[Any]


class Future(concurrent.futures.Future[Any]):
    """``concurrent.futures.Future``, except that only the calling tasklet waits in ``result`` and ``exception``."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()


class TaskletPoolExecutor(concurrent.futures.Executor):
    """``concurrent.futures.ThreadPoolExecutor`` with tasklets in the place of threads.

    ``max_workers`` is how many calls run at the same time, None for any number. ``submit`` never switches; calls beyond
    the limit wait in the order in which they were submitted. Leaving a ``with`` block waits for all of them.

    ``concurrent.futures.wait`` and ``as_completed`` block only the tasklet after ``lissom.hook()``; without it, use
    `lissom.wait`.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError("max_workers must be greater than 0")
        self._places = None if max_workers is None else Semaphore(max_workers)
        self._pending: dict[tasklet, Future] = {}
        self._shut = False

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> concurrent.futures.Future[_R]:
        """Start ``fn(*args, **kwargs)`` and return its future; RuntimeError after `shutdown`. Never switches."""
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = Future()
        worker = spawn(self._work, future, fn, args, kwargs)
        self._pending[worker] = future
        return future

    def _work(self, future: Future, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        from lissom._core import getcurrent

        me = getcurrent()
        try:
            if self._places is None:
                self._call(future, fn, args, kwargs)
            else:
                with self._places:
                    self._call(future, fn, args, kwargs)
        finally:
            if not future.done():  # killed
                future.cancel()
                future.set_running_or_notify_cancel() if future.cancelled() else future.set_exception(
                    concurrent.futures.CancelledError()
                )
            self._pending.pop(me, None)

    @staticmethod
    def _call(future: Future, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = fn(*args, **kwargs)
        except Exception as exception:  # noqa: BLE001 - it is the future's
            future.set_exception(exception)
        else:
            future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; ``cancel_futures`` drops those that have not begun, ``wait`` waits for the rest."""
        self._shut = True
        if cancel_futures:
            for future in list(self._pending.values()):
                future.cancel()
        while wait and self._pending:
            _join_any(list(self._pending))


class DoneAndNotDone(NamedTuple):
    """What `wait` returns: two sets of what it was given."""

    done: set[Any]
    not_done: set[Any]


FIRST_COMPLETED = concurrent.futures.FIRST_COMPLETED
FIRST_EXCEPTION = concurrent.futures.FIRST_EXCEPTION
ALL_COMPLETED = concurrent.futures.ALL_COMPLETED


def _done(thing: Thing) -> bool:
    return not thing.alive if isinstance(thing, tasklet) else thing.done()


def _failed(thing: Thing) -> bool:
    if not _done(thing):
        return False
    if isinstance(thing, tasklet):
        try:
            join(thing)
        except Exception:  # noqa: BLE001 - asked for
            return True
        return False
    return not thing.cancelled() and thing.exception() is not None


def _watch(future: concurrent.futures.Future[Any]) -> None:
    done = Event()
    future.add_done_callback(lambda _: done.set())
    done.wait()


def wait(things: Iterable[Thing], timeout: float | None = None, return_when: str = ALL_COMPLETED) -> DoneAndNotDone:
    """Wait for tasklets and futures, all of them or the first, at most `timeout` seconds.

    Switches, unless what is waited for has come already. ``things`` are tasklets, and futures of any kind (those of
    ``concurrent.futures``, too); ``return_when`` is ``ALL_COMPLETED``, ``FIRST_COMPLETED`` or
    ``FIRST_EXCEPTION``, as in
    ``concurrent.futures``.

    Returns a tuple ``(done, not_done)`` of sets. Raises ``TypeError`` for what is neither, ``ValueError`` for another
    ``return_when``. If an exception is thrown into the caller, the things go on.
    """
    import time

    everything = list(dict.fromkeys(things))
    for thing in everything:
        if not isinstance(thing, tasklet | concurrent.futures.Future):
            raise TypeError(f"a tasklet or a future is needed, not {type(thing).__name__}")
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"invalid return condition: {return_when!r}")
    deadline = None if timeout is None else time.monotonic() + timeout
    watchers: dict[Any, tasklet] = {}
    try:
        while True:
            waiting = [thing for thing in everything if not _done(thing)]
            ended = len(waiting) < len(everything)
            enough = (
                not waiting
                or (return_when == FIRST_COMPLETED and ended)
                or (return_when == FIRST_EXCEPTION and any(map(_failed, everything)))
            )
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            if enough or rest == 0.0:
                break
            for thing in waiting:
                if not isinstance(thing, tasklet) and thing not in watchers:
                    watchers[thing] = spawn(_watch, thing)
            _join_any([thing if isinstance(thing, tasklet) else watchers[thing] for thing in waiting], rest)
    finally:
        for watcher in watchers.values():
            watcher.kill()
    not_done = set(waiting)
    return DoneAndNotDone(set(everything) - not_done, not_done)


def wait_any(things: Iterable[Thing], timeout: float | None = None) -> Any:
    """Wait for the first of some tasklets and futures; return it, or None after `timeout` seconds. Switches."""
    ordered = list(things)
    done, _ = wait(ordered, timeout, FIRST_COMPLETED)
    return next((thing for thing in ordered if thing in done), None)


def wait_all(things: Iterable[Thing], timeout: float | None = None) -> list[Any]:
    """Wait for all of some tasklets and futures; return their results in order. Switches.

    Raises the first exception in that order, and ``TimeoutError`` if not all have ended in `timeout` seconds.
    """
    ordered = list(things)
    _, not_done = wait(ordered, timeout)
    if not_done:
        raise TimeoutError(f"{len(not_done)} of {len(ordered)} have not ended in time")
    return [join(thing) if isinstance(thing, tasklet) else thing.result() for thing in ordered]
