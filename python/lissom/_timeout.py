"""Time limits on pieces of code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lissom import _core

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class timeout:
    """Limit the time that a ``with`` block may take.

    ::

        with lissom.timeout(2.5):
            answer = connection.recv(1024)

    When the time is over, ``TimeoutError`` is raised in the block: where it waits, or at its next switch. A tasklet is
    not interrupted in the middle of a computation; a block that never waits ends as if there were no limit. Entering
    and leaving never switch.

    ``seconds`` is a number; less than 0 counts as 0, and None sets no limit. An object can be used once. Blocks may be
    nested, and each has an exception of its own.

    Entering returns the object. Its attribute ``expired`` is true once the ``TimeoutError`` of this very object has
    left the block. Entering raises ``TypeError`` or ``ValueError`` for what is no number of seconds, ``RuntimeError``
    the second time.

    What the block was doing stays as it is: a ``recv`` that was ended has received nothing, of a ``sendall`` a part may
    have been sent, a function in `lissom.offload` runs to its end. A tasklet that is killed leaves the block as it does
    any other, and the limit is lifted.

    Unlike ``socket.settimeout`` it counts for the block as a whole, whatever it waits for; unlike ``asyncio.timeout``
    it cannot be rescheduled.
    """

    __slots__ = ("_exception", "_key", "_seconds", "expired")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._key: int | None = None
        self._exception: TimeoutError | None = None
        self.expired = False

    def __enter__(self) -> Self:
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
