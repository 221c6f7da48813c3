"""What a waiting tasklet keeps: one page of stack, whatever simple thing it waits for."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

import lissom
import pytest
from lissom import _core

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 2000


def receive() -> None:
    lissom.channel().receive()


def sleep() -> None:
    lissom.sleep(1000)


def sleep_of_the_standard_library() -> None:
    time.sleep(1000)


@pytest.mark.parametrize("wait", [receive, sleep, sleep_of_the_standard_library])
def test_simple_waiting_tasklet_keeps_one_page(wait: Callable[[], None]) -> None:
    lissom.hook()
    before = _core._stats()
    tasklets = [lissom.spawn(wait) for _ in range(COUNT)]
    lissom.schedule()
    after = _core._stats()
    for tasklet in tasklets:
        tasklet.kill()
    lissom.unhook()
    stacks = after["stacks_in_use"] - before["stacks_in_use"]
    assert stacks == COUNT
    # Stacks that were warm before may have been counted already.
    pages = (after["stack_bytes_committed"] - before["stack_bytes_committed"]) / stacks / resource.getpagesize()
    assert pages <= 1
