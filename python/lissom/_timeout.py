"""Time limits on pieces of code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lissom import _core

if TYPE_CHECKING:
    from types import TracebackType


class timeout:
    """Limit the time that a ``with`` block may take.

    ::

        with lissom.timeout(2.5):
            answer = connection.recv(1024)

    When the time is over, :exc:`TimeoutError` is raised in the block, at the place where it waits, or at its next
    switch if it is busy computing: a tasklet is not interrupted in the middle of a computation. Blocks may be nested;
    each raises an exception of its own. The object can be used once. Entering and leaving never switch.

    :param seconds: the limit, a number; negative counts as 0, ``None`` sets none.
    :raises TimeoutError: from the block; :attr:`expired` is true afterwards.
    """

    __slots__ = ("_exception", "_key", "_seconds", "expired")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._key: int | None = None
        self._exception: TimeoutError | None = None
        self.expired = False

    def __enter__(self) -> timeout:
        if self._exception is not None:
            raise RuntimeError("a timeout can be used once: make another one")
        self._exception = TimeoutError(f"timed out after {self._seconds} seconds")
        if self._seconds is not None:
            self._key = _core._throw_at(self._seconds, self._exception)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._key is not None:
            _core._remove_timer(self._key)
        self.expired = exception is not None and exception is self._exception
