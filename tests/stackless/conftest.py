"""What the tests of the Stackless API share: an idle scheduler before and after each, and threads with schedulers."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Self

import lissom
import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def idle_scheduler(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something behind, and take it away, so that the next one is not disturbed."""
    assert not leftovers(), "the tests before left something behind"
    failures = request.session.testsfailed
    yield
    left = leftovers()
    clean_up()
    # A test that has failed has told its story; what it could not tidy up would only bury that.
    if left and request.session.testsfailed == failures:
        pytest.fail(f"left behind: {', '.join(left)}", pytrace=False)


def leftovers() -> list[str]:
    """Say what differs from an idle scheduler in a process with one thread."""
    current, trap = stackless.getcurrent(), stackless.switch_trap(0)
    handler = stackless.set_error_handler(None)
    stackless.set_error_handler(handler)
    state = {
        "a current tasklet that is not the main one": not current.is_main,
        "queued tasklets": stackless.getruncount() != 1,
        "active run() calls": stackless.get_thread_info(-1, 1 << 31)[3] not in (None, [None]),
        f"a switch trap of {trap}": trap != 0,
        "a block trap": current.block_trap,
        "an atomic main tasklet": current.atomic,
        "ignored nesting": current.ignore_nesting,
        "a value in tempval": current.tempval is not None,
        "a channel callback": stackless.get_channel_callback() is not None,
        "a schedule callback": stackless.get_schedule_callback() is not None,
        "an error handler": handler is not None,
        "threads": threading.active_count() != 1,
    }
    return [name for name, wrong in state.items() if wrong]


def clean_up() -> None:
    """Set everything back, and kill the tasklets that are left."""
    stackless.set_error_handler(None)
    stackless.set_channel_callback(None)
    stackless.set_schedule_callback(None)
    stackless.switch_trap(-stackless.switch_trap(0))
    main = stackless.getcurrent()
    main.block_trap = False
    main.set_atomic(False)
    main.set_ignore_nesting(False)
    main.tempval = None
    del gc.garbage[:]
    # Collecting takes longer than most tests: only if there is something that may go by itself.
    if alive():
        gc.collect()
    for _ in range(20):
        for tasklet in alive():
            tasklet.kill(pending=tasklet.thread_id != main.thread_id)


def alive() -> list[stackless.tasklet]:
    """Return the live tasklets, without the main ones."""
    return [tasklet for tasklet in lissom._core._tasklets() if tasklet.alive and not tasklet.is_main]


@pytest.fixture
def remote_thread() -> type[Remote]:
    """Make threads with tasklets: ``with remote_thread(function) as remote: remote.tasks[0].run()``."""
    return Remote


class Remote:
    """A thread with paused tasklets, one for each function, which have not started unless `started` is true.

    Its main tasklet calls `prepare`, and then waits on a channel, so that its tasklets run as they are queued. With
    `busy` it waits without the scheduler instead: nothing runs meanwhile. When the block ends it calls `at_end`.
    A test that ends the thread before that joins it.
    """

    def __init__(
        self,
        *functions: Callable[[], object],
        busy: bool = False,
        started: bool = False,
        prepare: Callable[[Remote], object] = lambda remote: None,
        at_end: Callable[[], object] = stackless.run,
    ) -> None:
        self.functions = functions
        self.busy, self.started = busy, started
        self.prepare, self.at_end = prepare, at_end
        self.tasks: list[stackless.tasklet] = []
        self.errors: list[BaseException] = []
        self.ready, self.release = threading.Event(), threading.Event()
        self.control = stackless.channel()
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        """What the thread does."""
        try:
            self.main = stackless.getmain()
            self.tasks.extend(stackless.tasklet(function, ()) for function in self.functions)
            if self.started:
                for task in self.tasks:
                    task.run()
            self.prepare(self)
            self.ready.set()
            if self.busy:
                self.release.wait()
            else:
                self.control.receive()
            self.at_end()
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            self.errors.append(error)
        finally:
            self.ready.set()

    @property
    def ident(self) -> int:
        """The ident of the thread."""
        assert self.thread.ident is not None
        return self.thread.ident

    def __enter__(self) -> Self:
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        if not self.busy and self.thread.is_alive():
            self.control.send(None)
        self.thread.join()
