"""No exception is lost: an uncaught one reaches its joiner or `lissom.excepthook`, and the others go on."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from conftest import Script


def fail() -> None:
    """Raise what nobody catches."""
    raise LookupError("lost?")


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[lissom.tasklet, BaseException]]:
    """What the hook has been called with."""
    calls: list[tuple[lissom.tasklet, BaseException]] = []
    monkeypatch.setattr(lissom, "excepthook", lambda tasklet, exception: calls.append((tasklet, exception)))
    return calls


def test_uncaught_exception_is_reported_once_with_tasklet_and_traceback(reported: list[object]) -> None:
    tasklet = lissom.spawn(fail)
    lissom.run()
    ((who, exception),) = reported
    assert who is tasklet
    assert [frame.name for frame in traceback.extract_tb(exception.__traceback__)] == ["fail"]


def test_join_that_begins_while_the_exception_is_reported_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    reporting = lissom.channel()
    monkeypatch.setattr(lissom, "excepthook", lambda *_: reporting.receive())
    tasklet = lissom.spawn(fail)
    lissom.schedule()
    lissom.spawn(reporting.send, None)
    with lissom.timeout(30), pytest.raises(LookupError):
        lissom.join(tasklet)


def test_exception_that_was_reported_is_raised_by_a_later_join(reported: list[object]) -> None:
    tasklet = lissom.spawn(fail)
    lissom.run()
    with pytest.raises(LookupError) as caught:
        lissom.join(tasklet)
    assert caught.value is reported[0][1]


def test_exception_that_a_joiner_gets_is_not_reported(reported: list[object]) -> None:
    with pytest.raises(LookupError):
        lissom.join(lissom.spawn(fail))
    assert not reported


def test_exception_is_reported_when_the_joiner_has_given_up(reported: list[object]) -> None:
    go = lissom.channel()

    def fail_later() -> None:
        go.receive()
        fail()

    tasklet = lissom.spawn(fail_later)
    with pytest.raises(TimeoutError):
        lissom.join(tasklet, 0.001)
    go.send(None)
    lissom.run()
    assert len(reported) == 1


def test_others_go_on_after_an_uncaught_exception(reported: list[object]) -> None:
    tasklets = [lissom.spawn(fail), lissom.spawn(lambda: "fine"), lissom.spawn(fail)]
    lissom.run()
    assert lissom.join(tasklets[1]) == "fine"
    assert len(reported) == 2


def test_default_hook_prints_the_full_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def outer() -> None:
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            fail()

    lissom.spawn(outer)
    lissom.run()
    errors = capsys.readouterr().err
    assert errors.startswith("Exception in tasklet <lissom.tasklet ")
    for part in ("in outer", "ZeroDivisionError", "During handling of the above", "in fail", "LookupError: lost?"):
        assert part in errors


def test_hook_runs_in_the_dying_tasklet_and_may_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def hook(tasklet: lissom.tasklet, exception: BaseException) -> None:
        lissom.sleep(0.001)
        seen.append((lissom.getcurrent() is tasklet, type(exception)))

    monkeypatch.setattr(lissom, "excepthook", hook)
    lissom.spawn(fail)
    lissom.run()
    assert seen == [(True, LookupError)]


def test_exception_of_the_hook_is_printed_with_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(tasklet: lissom.tasklet, exception: BaseException) -> None:
        raise ValueError("in the hook")

    unraisable: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(str(args.exc_value)))
    monkeypatch.setattr(lissom, "excepthook", hook)
    lissom.spawn(fail)
    lissom.run()
    assert unraisable == ["in the hook", "lost?"]


def test_tasklet_exit_is_silent(reported: list[object]) -> None:
    def leave() -> None:
        raise TaskletExit  # noqa: F821 (a builtin, as in Stackless)

    tasklet = lissom.spawn(leave)
    lissom.run()
    assert lissom.join(tasklet) is None
    assert not reported


def test_tasklet_exit_is_a_builtin_kind_of_system_exit() -> None:
    import builtins

    assert lissom.TaskletExit is builtins.TaskletExit
    assert issubclass(lissom.TaskletExit, SystemExit)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_of_a_tasklet_goes_on_in_the_main_one(reported: list[object], kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind(3)

    lissom.spawn(leave)
    with pytest.raises(kind) as caught:
        lissom.sleep(60)
    assert caught.value.args == (3,)
    assert not reported


def test_exit_of_a_tasklet_ends_the_program_with_its_code(script: Script) -> None:
    done = script(
        """
        import lissom, sys
        lissom.spawn(sys.exit, 7)
        lissom.sleep(60)
        """,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "")


def test_uncaught_exception_of_the_main_tasklet_ends_the_program_as_usual(script: Script) -> None:
    done = script(
        """
        import lissom
        def waits():
            try:
                lissom.sleep(60)
            finally:
                print("finally")
        lissom.spawn(waits)
        lissom.schedule()
        raise LookupError("main")
        """,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("LookupError: main\n")
    assert done.stdout == "finally\n"


def test_exception_in_a_thread_goes_to_threading_excepthook(script: Script) -> None:
    done = script(
        """
        import threading
        def hook(args):
            print(args.exc_type.__name__, args.exc_value, args.thread.name, args.exc_traceback.tb_next is None)
        threading.excepthook = hook
        def fail():
            raise LookupError("in a thread")
        thread = threading.Thread(target=fail, name="Ada")
        thread.start()
        thread.join()
        print("goes on")
        """,
        hooked=True,
    )
    assert done.stdout == "LookupError in a thread Ada False\ngoes on\n"


def test_exception_in_a_raw_thread_goes_to_sys_unraisablehook_as_in_a_real_one(script: Script) -> None:
    source = """
        import sys, time, _thread
        done = _thread.allocate_lock()
        def hook(args):
            print(args.exc_type.__name__, args.exc_value)
            done.release()
        sys.unraisablehook = hook
        def fail():
            raise LookupError("raw")
        done.acquire()
        _thread.start_new_thread(fail, ())
        done.acquire()
        _thread.start_new_thread(sys.exit, ())
        time.sleep(0.01)
        print("goes on")
    """
    assert script(source, hooked=True).stdout == script(source).stdout == "LookupError raw\ngoes on\n"
