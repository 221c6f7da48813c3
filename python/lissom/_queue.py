"""Queues, and channels with a buffer, for which only the calling tasklet waits."""

from __future__ import annotations

import queue
from collections import deque
from typing import TYPE_CHECKING, Any

from lissom._core import Lock
from lissom._sync import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator


def _use_our_locks(instance: queue.Queue[Any]) -> None:
    """Have a queue of the standard library wait through our lock and conditions."""
    instance.mutex = Lock()  # type: ignore[assignment]
    instance.not_empty = Condition(instance.mutex)  # type: ignore[arg-type]
    instance.not_full = Condition(instance.mutex)  # type: ignore[arg-type]
    instance.all_tasks_done = Condition(instance.mutex)  # type: ignore[arg-type]


class Queue(queue.Queue[Any]):
    """``queue.Queue``, except that only the calling tasklet waits."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        _use_our_locks(self)


class LifoQueue(queue.LifoQueue[Any]):
    """``queue.LifoQueue``, except that only the calling tasklet waits."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        _use_our_locks(self)


class PriorityQueue(queue.PriorityQueue[Any]):
    """``queue.PriorityQueue``, except that only the calling tasklet waits."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        _use_our_locks(self)


class QueueChannel:
    """A channel with a buffer: senders wait only when it is full.

    ``maxsize`` is how many values it holds, None for any number. Iterating receives until the channel is closed and
    empty. Values come out in the order in which they were sent. As stacklesslib's ``QueueChannel``.
    """

    def __init__(self, maxsize: int | None = None) -> None:
        if maxsize is not None and maxsize < 1:
            raise ValueError(f"maxsize must be at least 1, or None for no limit, not {maxsize}")
        self._maxsize = maxsize
        self._values: deque[Any] = deque()
        self._lock = Lock()
        self._not_empty = Condition(self._lock)
        self._not_full = Condition(self._lock)
        self._receivers = 0
        self._closing = False

    def __len__(self) -> int:
        return len(self._values)

    @property
    def balance(self) -> int:
        """How many values are there, or, as a negative number, how many receivers wait."""
        return len(self._values) or -self._receivers

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    @property
    def closed(self) -> bool:
        """Whether `close` was called and nothing is left to receive."""
        return self._closing and not self._values

    def send(self, value: object) -> None:
        """Append a value. Switches only if the channel is full, until it is not; ValueError if it is closed."""
        with self._lock:
            while self._maxsize is not None and len(self._values) >= self._maxsize and not self._closing:
                self._not_full.wait()
            if self._closing:
                raise ValueError("Send/receive operation on a closed channel")
            self._values.append(value)
            self._not_empty.notify()

    def receive(self, timeout: float | None = None) -> Any:
        """Take the first value. Switches if there is none, until one comes; TimeoutError after `timeout` seconds.

        Raises ``ValueError`` if the channel is closed and empty.
        """
        with self._lock:
            self._receivers += 1
            try:
                arrived = self._not_empty.wait_for(lambda: self._values or self._closing, timeout)
            finally:
                self._receivers -= 1
            if not arrived:
                raise TimeoutError("nothing was sent in time")
            if not self._values:
                raise ValueError("Send/receive operation on a closed channel")
            value = self._values.popleft()
            self._not_full.notify()
            return value

    def close(self) -> None:
        """Let nobody send any more. What is there can still be received; who waits is woken."""
        with self._lock:
            self._closing = True
            self._not_empty.notify_all()
            self._not_full.notify_all()

    def open(self) -> None:
        """Reopen a closed channel."""
        with self._lock:
            self._closing = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self.receive()
        except ValueError:
            raise StopIteration from None
