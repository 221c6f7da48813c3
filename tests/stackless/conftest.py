"""Each test begins and ends with an idle scheduler: nothing queued, no run() active, no trap, no callback."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import lissom
import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    for _ in range(20):
        left = [tasklet for tasklet in lissom._core._tasklets() if tasklet.alive and not tasklet.is_main]
        if not left:
            break
        for tasklet in left:
            tasklet.kill(pending=tasklet.thread_id != main.thread_id)
    del gc.garbage[:]
    gc.collect()
