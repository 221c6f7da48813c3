"""Threads that are tasklets: identity, thread-locals, joining, and everything `threading` tells of them."""

from __future__ import annotations

import _thread
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


def os_thread() -> Path:
    """Return what the kernel calls the running thread."""
    return Path("/proc/thread-self").readlink()


def in_thread(function: Callable[[], object]) -> object:
    """Return what the function returns in a thread of its own."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(30)
    return results[0]


def test_thread_is_a_tasklet_on_the_same_os_thread() -> None:
    assert in_thread(lambda: (os_thread(), lissom.getcurrent().is_main)) == (os_thread(), False)


def test_native_ids_are_unique_and_no_os_thread_has_them() -> None:
    threads = [threading.Thread(target=time.sleep, args=[0.01]) for _ in range(3)]
    for thread in threads:
        thread.start()
    ids = {thread.native_id for thread in threads}
    for thread in threads:
        thread.join(30)
    assert len(ids) == 3
    assert in_thread(threading.get_native_id) != threading.get_native_id() == threading.main_thread().native_id
    for native_id in ids:
        assert native_id is not None
        with pytest.raises(ProcessLookupError):
            os.sched_getaffinity(native_id)


def test_frames_of_all_threads_are_shown() -> None:
    go = threading.Event()

    def wait_here() -> None:
        go.wait(30)

    bare = lissom.spawn(wait_here)
    threads = [threading.Thread(target=wait_here) for _ in range(2)]
    for thread in threads:
        thread.start()
    lissom.schedule()
    for look in (sys._current_frames, lambda: in_thread(sys._current_frames)):
        frames = look()
        assert isinstance(frames, dict)
        for thread in threads:
            assert "wait_here" in "".join(traceback.format_stack(frames[thread.ident]))
        main = "".join(traceback.format_stack(frames[threading.get_ident()]))
        assert "test_frames_of_all_threads_are_shown" in main
        assert "wait_here" not in main
    assert threading.get_ident() in sys._current_frames()
    go.set()
    for thread in threads:
        thread.join(30)
    lissom.join(bare)
    assert not {thread.ident for thread in threads} & set(sys._current_frames())


def test_exceptions_of_all_threads_are_shown() -> None:
    go = threading.Event()

    def handle() -> None:
        try:
            raise LookupError("kept")
        except LookupError:
            go.wait(30)

    def generator() -> Iterator[None]:
        try:
            raise KeyError("inside")
        except KeyError:
            go.wait(30)
            yield

    threads = [threading.Thread(target=target) for target in (handle, lambda: list(generator()), lambda: go.wait(30))]
    for thread in threads:
        thread.start()
    shown = sys._current_exceptions()
    values = [shown[thread.ident] for thread in threads]
    if sys.version_info < (3, 12):
        assert [value[0] for value in values] == [LookupError, KeyError, None]
        values = [value[1] for value in values]
    assert list(map(repr, values)) == ["LookupError('kept')", "KeyError('inside')", "None"]
    go.set()
    for thread in threads:
        thread.join(30)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
@pytest.mark.parametrize("which", ["trace", "profile"])
def test_trace_function_for_all_threads_reaches_those_that_wait(which: str) -> None:
    get, go = getattr(sys, f"get{which}"), threading.Event()
    set_all = getattr(threading, f"set{which}_all_threads")
    seen: list[object] = []

    def look() -> None:
        seen.append(get())
        go.wait(30)
        seen.append(get())

    def function(*_: object) -> None:
        return None

    thread = threading.Thread(target=look)
    bare = lissom.spawn(look)
    thread.start()
    lissom.schedule()
    try:
        # From another tasklet than the main one: that one waits, too.
        in_thread(lambda: set_all(function))
        assert get() is function
        go.set()
        thread.join(30)
        lissom.join(bare)
    finally:
        set_all(None)
        getattr(threading, f"set{which}")(None)
    assert seen == [None, None, function, function]
    assert get() is None
    assert in_thread(get) is None


def test_lock_tells_who_owns_it() -> None:
    lock = threading.RLock()
    go = threading.Event()

    def hold() -> None:
        with lock, lock:
            go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert f"owner={thread.ident} count=2" in repr(lock)
    go.set()
    thread.join(30)
    assert "owner=0 count=0" in repr(lock)
    with lock:
        assert f"owner={threading.get_ident()} count=1" in repr(lock)


def test_thread_has_an_ident_a_name_and_a_current_thread_of_its_own() -> None:
    threads = [
        threading.Thread(target=lambda: seen.append((threading.current_thread(), threading.get_ident())))
        for _ in range(3)
    ]
    seen: list[tuple[threading.Thread, int]] = []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [thread for thread, _ in seen] == threads
    assert [ident for _, ident in seen] == [thread.ident for thread in threads]
    assert threading.current_thread() is threading.main_thread()
    assert threading.get_ident() == threading.main_thread().ident


def test_idents_of_living_threads_differ() -> None:
    release = threading.Event()
    threads = [threading.Thread(target=release.wait) for _ in range(50)]
    for thread in threads:
        thread.start()
    idents = {thread.ident for thread in threads} | {threading.get_ident()}
    assert len(idents) == 51
    assert {thread.ident for thread in threading.enumerate()} >= idents
    assert threading.active_count() >= 51
    release.set()
    for thread in threads:
        thread.join(30)
    assert not set(threads) & set(threading.enumerate())


def test_is_alive_turns_with_start_and_end() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    assert not thread.is_alive()
    thread.start()
    assert thread.is_alive()
    thread.join(0.005)
    assert thread.is_alive()
    release.set()
    thread.join()
    assert not thread.is_alive()
    thread.join()


def test_join_by_many() -> None:
    release, order = threading.Event(), []
    thread = threading.Thread(target=release.wait)
    thread.start()
    joiners = [threading.Thread(target=lambda: (thread.join(), order.append("joined"))) for _ in range(5)]
    for joiner in joiners:
        joiner.start()
    time.sleep(0)
    assert order == []
    release.set()
    for joiner in joiners:
        joiner.join(30)
    assert order == ["joined"] * 5


def test_join_of_itself_or_of_one_not_started_raises() -> None:
    def join_myself() -> str:
        with pytest.raises(RuntimeError, match="cannot join current thread"):
            threading.current_thread().join()
        return "raised"

    assert in_thread(join_myself) == "raised"
    with pytest.raises(RuntimeError, match="before it is started"):
        threading.Thread().join()


def test_thread_cannot_be_started_twice() -> None:
    thread = threading.Thread()
    thread.start()
    with pytest.raises(RuntimeError, match="only be started once"):
        thread.start()
    thread.join()


@pytest.mark.parametrize("kind", ["C", "Python"])
def test_thread_locals_are_those_of_the_tasklet(kind: str) -> None:
    import _threading_local

    local = threading.local() if kind == "C" else _threading_local.local()
    local.value = "main"

    def work(number: int) -> None:
        assert not hasattr(local, "value")
        local.value = number
        time.sleep(0.001)
        assert local.value == number

    with_errors: list[BaseException] = []
    hook, threading.excepthook = threading.excepthook, lambda args: with_errors.append(args.exc_value)
    try:
        threads = [threading.Thread(target=work, args=[number]) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        threading.excepthook = hook
    assert with_errors == []
    assert local.value == "main"


def test_thread_locals_die_with_their_thread() -> None:
    ended = []

    class Thing:
        def __del__(self) -> None:
            ended.append(True)

    local = threading.local()

    def work() -> None:
        local.thing = Thing()

    in_thread(work)
    assert ended == [True]


def test_spawned_tasklet_under_hooks_has_thread_locals_and_a_dummy_thread() -> None:
    local = threading.local()
    local.value = "main"

    def work() -> tuple[bool, bool]:
        return hasattr(local, "value"), threading.current_thread() is threading.main_thread()

    assert lissom.join(lissom.spawn(work)) == (False, False)


def test_spawned_tasklet_shares_the_thread_when_threads_are_left_alone() -> None:
    lissom.hook(threads=False)
    local = threading.local()
    local.value = "main"
    work = lissom.spawn(lambda: (local.value, threading.current_thread() is threading.main_thread()))
    assert lissom.join(work) == ("main", True)


def test_start_new_thread_returns_the_ident() -> None:
    seen = []
    done = _thread.allocate_lock()
    done.acquire()
    ident = _thread.start_new_thread(
        lambda a, *, b: (seen.append((a, b, _thread.get_ident())), done.release()), (1,), {"b": 2}
    )
    done.acquire()
    assert seen == [(1, 2, ident)]


@pytest.mark.parametrize("arguments", [(), (5, ()), (print, 5), (print, (), 5), (print, [])])
def test_start_new_thread_with_wrong_arguments_raises_type_error(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        _thread.start_new_thread(*arguments)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
def test_start_joinable_thread() -> None:
    seen = []
    handle = _thread.start_joinable_thread(lambda: seen.append(_thread.get_ident()), daemon=False)
    assert not handle.is_done()
    handle.join()
    assert handle.is_done()
    assert seen == [handle.ident]
    handle.join()


def test_threads_of_threads() -> None:
    assert in_thread(lambda: in_thread(lambda: in_thread(lambda: "deep"))) == "deep"


def test_trace_function_of_threading_is_set_in_new_threads() -> None:
    seen = []
    threading.settrace(lambda frame, event, arg: seen.append(frame.f_code.co_name))
    try:

        def traced() -> None:
            pass

        in_thread(traced)
    finally:
        threading.settrace(None)
    assert "traced" in seen
    assert sys.gettrace() is None or "traced" not in str(sys.gettrace())


def test_thousands_of_threads_at_once() -> None:
    release, count = threading.Event(), []
    threads = [threading.Thread(target=lambda: (release.wait(), count.append(1))) for _ in range(3000)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(30)
    assert len(count) == 3000


def test_real_threads_option_leaves_threads_alone(script: Script) -> None:
    done = script(
        """
        import os, threading, time
        seen = []
        thread = threading.Thread(target=lambda: (time.sleep(0.01), seen.append(os.readlink("/proc/thread-self"))))
        thread.start()
        thread.join()
        print(seen[0] != os.readlink("/proc/thread-self"))
        """,
        hooked=True,
        real_threads=True,
    )
    assert done.stdout == "True\n"


def test_context_of_a_thread_is_as_in_a_real_one(script: Script) -> None:
    source = """
        import contextvars, sys, threading
        variable = contextvars.ContextVar("variable", default="empty")
        variable.set("main")
        seen = []
        thread = threading.Thread(target=lambda: (seen.append(variable.get()), variable.set("thread")))
        thread.start()
        thread.join()
        print(seen, variable.get())
    """
    assert script(source, hooked=True).stdout == script(source).stdout


# ---- signal masks ----------------------------------------------------------------------------------------------------


def test_mask_of_a_thread_is_its_own() -> None:
    seen: list[object] = []

    def blocks_all() -> None:
        seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()))
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})
        seen.append(signal.valid_signals() - blocked == {signal.SIGKILL, signal.SIGSTOP})
        seen.append(signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1]))
        seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        for wrong in ([0], [65]):
            with pytest.raises(ValueError, match="out of range"):
                signal.pthread_sigmask(signal.SIG_BLOCK, wrong)
        with pytest.raises(OSError, match="Invalid argument"):
            signal.pthread_sigmask(77, [])

    thread = threading.Thread(target=blocks_all)
    thread.start()
    thread.join()
    assert seen == [set(), True, {signal.SIGUSR1}, set()]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_mask_of_the_main_thread_is_that_of_the_process() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR2}
        shown = subprocess.run(SHOWS_MASK, capture_output=True, text=True, check=True).stdout
        assert shown == "{<Signals.SIGUSR2: 12>}\n"
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


SHOWS_MASK = [sys.executable, "-c", "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"]


def test_command_of_the_shell_has_the_mask_of_its_caller(tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert os.system(f"{shlex.join(SHOWS_MASK)} > {shlex.quote(str(output))}") == 0
    assert output.read_text() == "set()\n"
