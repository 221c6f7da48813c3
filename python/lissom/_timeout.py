"""Time limits on pieces of code."""

from lissom import _core


class timeout:
    """Limit the time that a ``with`` block may take.

    ::

        with lissom.timeout(2.5):
            answer = connection.recv(1024)

    When the time is over, :exc:`TimeoutError` is raised in the block, at the place where it waits, or at its next switch
    if it is busy computing: a tasklet is never interrupted in the middle of a computation. Blocks may be nested; each
    raises an exception of its own. The object can be used once.

    :param seconds: the limit, a number; ``None`` sets none.
    :raises TimeoutError: from the block; ``expired`` is true afterwards.
    """

    __slots__ = ("_exception", "_key", "_seconds", "expired")

    def __init__(self, seconds):
        self._seconds = seconds
        self._key = None
        self._exception = None
        self.expired = False

    def __enter__(self):
        if self._exception is not None:
            raise RuntimeError("a timeout can be used once: make another one")
        self._exception = TimeoutError(f"timed out after {self._seconds} seconds")
        if self._seconds is not None:
            self._key = _core._throw_at(self._seconds, self._exception)
        return self

    def __exit__(self, kind, exception, traceback):
        if self._key is not None:
            _core._remove_timer(self._key)
        self.expired = exception is self._exception
        return False
