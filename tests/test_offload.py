"""`lissom.offload`: a function in a real thread, waited for by one tasklet."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from conftest import Script


def test_result_and_arguments_are_passed() -> None:
    assert lissom.offload(lambda *args, **kwargs: (args, kwargs), 1, key=2) == ((1,), {"key": 2})


def test_exception_is_raised_with_its_traceback() -> None:
    def failing_function() -> None:
        raise LookupError("there")

    with pytest.raises(LookupError, match="there") as caught:
        lissom.offload(failing_function)
    assert caught.traceback[-1].name == "failing_function"


def test_function_runs_in_another_thread_while_tasklets_run() -> None:
    release, order = threading.Event(), []

    def work() -> int:
        assert release.wait(30)
        return threading.get_ident()

    lissom.spawn(lambda: (order.append("ran"), release.set()))
    assert lissom.offload(work) != threading.get_ident()
    assert order == ["ran"]


def test_many_run_at_the_same_time() -> None:
    together = threading.Barrier(8)
    tasklets = [lissom.spawn(lissom.offload, together.wait, 30) for _ in range(8)]
    assert sorted(lissom.join(tasklet) for tasklet in tasklets) == list(range(8))


def test_more_than_there_are_threads_are_served_in_turn() -> None:
    tasklets = [lissom.spawn(lissom.offload, pow, 2, number) for number in range(500)]
    assert [lissom.join(tasklet) for tasklet in tasklets] == [2**number for number in range(500)]


def test_timeout_leaves_the_function_running_and_drops_its_result() -> None:
    release, finished = threading.Event(), threading.Event()

    def work() -> object:
        release.wait(30)
        finished.set()
        return object()

    with pytest.raises(TimeoutError), lissom.timeout(0.01):
        lissom.offload(work)
    release.set()
    assert finished.wait(30)


def test_killed_caller_does_not_disturb_the_function() -> None:
    release, finished = threading.Event(), threading.Event()
    tasklet = lissom.spawn(lissom.offload, lambda: (release.wait(30), finished.set()))
    lissom.schedule()
    tasklet.kill()
    release.set()
    assert finished.wait(30)


def test_blocking_calls_there_block_only_that_thread(hooked: None) -> None:
    order: list[str] = []
    tasklet = lissom.spawn(lambda: (lissom.offload(time.sleep, 0.05), order.append("offloaded")))
    lissom.spawn(lambda: order.append("ran"))
    lissom.join(tasklet)
    assert order == ["ran", "offloaded"]


def test_thread_started_there_is_a_real_one(hooked: None) -> None:
    def work() -> bool:
        idents = []
        thread = threading.Thread(target=lambda: idents.append(Path("/proc/thread-self").readlink()))
        thread.start()
        thread.join()
        return idents[0] not in (main, Path("/proc/thread-self").readlink())

    main = Path("/proc/thread-self").readlink()
    assert lissom.offload(work)


@pytest.mark.parametrize("wrong", [(), (5,)])
def test_of_what_cannot_be_called_raises_type_error(wrong: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match=r"offload\(\)"):
        lissom.offload(*wrong)


def test_program_ends_after_functions_that_still_run(script: Script) -> None:
    done = script(
        """
        import lissom, threading, time
        started = threading.Event()
        def work():
            started.set()
            time.sleep(0.05)
            print("finished")
        tasklet = lissom.spawn(lissom.offload, work)
        lissom.schedule()
        started.wait()
        """
    )
    assert done.stdout == "finished\n"


@pytest.fixture
def hooked():
    lissom.hook()
    yield
    lissom.unhook()
