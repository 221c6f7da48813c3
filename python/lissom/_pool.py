"""Groups of tasklets, and groups of limited size."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from lissom._core import _join_any, join, schedule, spawn, tasklet
from lissom._sync import Semaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Outcome(Generic[_R]):
    """What a member's function returned or raised."""

    __slots__ = ("exception", "value")

    def __init__(self, value: _R | None, exception: Exception | None) -> None:
        self.value = value
        self.exception = exception


class Group:
    """Tasklets that are started, waited for and ended together.

    ``len``, iteration and ``in`` see those that have not ended. As a context manager it waits for all of them at
    the end
    of the block, and kills them if the block is left by an exception.
    """

    def __init__(self) -> None:
        self._members: dict[tasklet, None] = {}

    def __len__(self) -> int:
        return sum(member.alive for member in self._members)

    def __iter__(self) -> Iterator[tasklet]:
        return iter([member for member in self._members if member.alive])

    def __contains__(self, member: object) -> bool:
        return isinstance(member, tasklet) and member in self._members and member.alive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.join(raise_error=True)
        else:
            self.kill()

    def spawn(self, func: Callable[_P, object], /, *args: _P.args, **kwargs: _P.kwargs) -> tasklet:
        """Start ``func(*args, **kwargs)`` as a tasklet of the group and return it. Never switches.

        An exception that ends it is raised by whoever joins it; nothing reports it if nobody does.
        """
        member = spawn(self._run, func, args, kwargs)
        self._members[member] = None
        return member

    def _run(self, func: Callable[..., _R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Outcome[_R]:
        try:
            return _Outcome(func(*args, **kwargs), None)
        except Exception as exception:  # noqa: BLE001
            return _Outcome(None, exception)  # raised by who joins

    def apply(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call ``func`` in a tasklet of the group, and return or raise what it does. Switches."""
        result: _R = self._result(self.spawn(func, *args, **kwargs))
        return result

    def map(self, func: Callable[..., _R], *iterables: Iterable[Any]) -> list[_R]:
        """Call ``func`` for all items at the same time; return the results in order, as a list. Switches.

        The first exception in that order is raised; the others go on.
        """
        return list(self.imap(func, *iterables))

    def imap(self, func: Callable[..., _R], *iterables: Iterable[Any]) -> Iterator[_R]:
        """As `map`, but yield the results one by one, in order, as they come. Switches."""
        members = deque(self.spawn(func, *items) for items in zip(*iterables, strict=False))
        return self._in_order(members)

    def _in_order(self, members: deque[tasklet]) -> Iterator[Any]:
        while members:
            yield self._result(members.popleft())

    def imap_unordered(self, func: Callable[..., _R], *iterables: Iterable[Any]) -> Iterator[_R]:
        """As `imap`, but yield the results in the order in which the calls end. Switches."""
        members = [self.spawn(func, *items) for items in zip(*iterables, strict=False)]
        return self._as_ended(members)

    def _as_ended(self, members: list[tasklet]) -> Iterator[Any]:
        while members:
            _join_any(members)
            ended = [member for member in members if not member.alive]
            members = [member for member in members if member.alive]
            for member in ended:
                yield self._result(member)

    def _result(self, member: tasklet) -> Any:
        outcome = join(member)
        self._members.pop(member, None)
        if outcome is None:  # killed
            return None
        if outcome.exception is not None:
            raise outcome.exception
        return outcome.value

    def join(self, timeout: float | None = None, raise_error: bool = False) -> bool:
        """Wait until all have ended, at most `timeout` seconds. Switches.

        Returns whether all have ended. With ``raise_error`` the first exception that has ended one is raised then.
        """
        import time

        deadline = None if timeout is None else time.monotonic() + timeout
        while alive := list(self):
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not _join_any(alive, rest):
                return False
        members, self._members = self._members, {}
        for member in members:
            outcome = join(member)
            if raise_error and outcome is not None and outcome.exception is not None:
                raise outcome.exception
        return True

    def kill(self) -> None:
        """End all by ``TaskletExit``, and wait until they have ended. Switches."""
        while alive := list(self):
            for member in alive:
                member.kill(pending=True)
            schedule()
            _join_any(alive)


class Pool(Group):
    """A `Group` in which at most ``size`` tasklets run at a time.

    `spawn` waits for a free place, so it switches when the pool is full; so do the others, which use it.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a pool needs a size of at least 1, not {size}")
        self._places = Semaphore(size)

    def spawn(self, func: Callable[_P, object], /, *args: _P.args, **kwargs: _P.kwargs) -> tasklet:
        """As `Group.spawn`, once there is a free place. Switches if there is none."""
        self._places.acquire()
        try:
            member = super().spawn(func, *args, **kwargs)
        except BaseException:
            self._places.release()
            raise
        spawn(self._give_back, member)
        return member

    def _give_back(self, member: tasklet) -> None:
        _join_any([member])
        self._places.release()
