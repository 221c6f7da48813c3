"""The end of a program: who is awaited, who is ended, what runs, and which exit code comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script


def test_parked_tasklets_get_tasklet_exit_and_their_finally_blocks_run(script: Script) -> None:
    done = script(
        """
        import lissom, time, socket
        left, right = socket.socketpair()
        channel = lissom.channel()
        waits = {
            "channel": channel.receive, "sleep": lambda: lissom.sleep(60), "paused": lissom.schedule_remove,
            "queued": lambda: [lissom.schedule() for _ in range(10**9)], "recv": lambda: left.recv(1),
        }
        def work(name):
            try:
                waits[name]()
            except BaseException as error:
                print(name, type(error).__name__)
                raise
            finally:
                print(name, "finally")
        lissom.hook()
        keep = [lissom.spawn(work, name) for name in waits]
        lissom.schedule()
        print("end of main")
        """,
        dev=False,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "end of main"
    names = ["channel", "sleep", "paused", "queued", "recv"]
    assert sorted(lines[1:]) == sorted(line for name in names for line in (f"{name} TaskletExit", f"{name} finally"))


def test_tasklets_that_never_ran_do_not_run_at_the_end(script: Script) -> None:
    assert script("import lissom; lissom.spawn(print, 'never'); print('end')").stdout == "end\n"


def test_finally_block_at_the_end_may_wait(script: Script) -> None:
    done = script(
        """
        import lissom
        def work():
            try:
                lissom.schedule_remove()
            finally:
                lissom.sleep(0.01)
                print("waited")
        keep = lissom.spawn(work)
        lissom.schedule()
        """
    )
    assert done.stdout == "waited\n"


def test_non_daemon_threads_are_awaited_and_daemons_are_not(script: Script) -> None:
    source = """
        import threading, time
        def work(name, seconds):
            time.sleep(seconds)
            print(name)
        threading.Thread(target=work, args=["awaited", 0.05]).start()
        threading.Thread(target=work, args=["never", 60], daemon=True).start()
        print("end of main")
    """
    assert script(source, hooked=True).stdout == script(source).stdout == "end of main\nawaited\n"


def test_threads_started_at_the_end_by_threads_are_awaited(script: Script) -> None:
    source = """
        import threading, time
        def second():
            time.sleep(0.02)
            print("second")
        def first():
            time.sleep(0.01)
            threading.Thread(target=second).start()
        threading.Thread(target=first).start()
    """
    # CPython 3.12 refuses to start a thread at this time; all other versions do it.
    assert script(source, hooked=True).stdout == "second\n"


def test_non_daemon_threads_are_awaited_after_an_error_of_main(script: Script) -> None:
    source = """
        import threading, time
        threading.Thread(target=lambda: (time.sleep(0.02), print("awaited"))).start()
        raise SystemExit(3)
    """
    done = script(source, hooked=True, check=False)
    assert (done.returncode, done.stdout) == (3, "awaited\n")


def test_atexit_functions_run_after_the_threads_and_may_use_sockets(script: Script) -> None:
    source = """
        import atexit, socket, threading, time
        def last():
            left, right = socket.socketpair()
            threading.Event().wait(0.001)
            right.send(b"x")
            print("at exit", left.recv(1))
            left.close(); right.close()
        atexit.register(last)
        threading.Thread(target=lambda: (time.sleep(0.01), print("thread"))).start()
        print("main")
    """
    assert script(source, hooked=True).stdout == script(source).stdout == "main\nthread\nat exit b'x'\n"


def test_threading_atexit_of_thread_pools_works(script: Script) -> None:
    source = """
        import concurrent.futures, time
        pool = concurrent.futures.ThreadPoolExecutor(3)
        for number in range(6):
            pool.submit(lambda number=number: (time.sleep(0.005 * number), print(number, flush=True)))
        print("end of main", flush=True)
    """
    done = script(source, hooked=True)
    assert sorted(done.stdout.splitlines()) == ["0", "1", "2", "3", "4", "5", "end of main"]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("pass", 0),
        ("raise SystemExit", 0),
        ("raise SystemExit(3)", 3),
        ("import sys; sys.exit('text')", 1),
        ("1 / 0", 1),
        ("import os; os._exit(4)", 4),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("raise KeyboardInterrupt", -2),
        ("import lissom, sys; lissom.join(lissom.spawn(sys.exit, 6))", 6),
        ("import threading, sys; t = threading.Thread(target=sys.exit, args=[6]); t.start(); t.join()", 0),
        ("import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", 0),
    ],
)
def test_exit_code_is_as_with_python(script: Script, source: str, code: int) -> None:
    assert script(source, hooked=True, check=False, dev=False).returncode == code


def test_many_parked_tasklets_at_the_end(script: Script) -> None:
    done = script(
        """
        import lissom
        ended = []
        class Count:
            def __del__(self): ended.append(1)
        def work(count):
            lissom.sleep(60)
        for _ in range(5000):
            lissom.spawn(work, Count())
        lissom.schedule()
        import atexit
        atexit.register(lambda: print("before", len(ended)))
        lissom._core._end()
        print("after", len(ended))
        """,
        dev=False,
    )
    assert done.stdout == "after 5000\nbefore 5000\n"


def test_tasklets_of_real_threads_are_ended_with_the_program(script: Script) -> None:
    done = script(
        """
        import lissom, threading
        ready = threading.Event()
        def work():
            try:
                lissom.schedule_remove()
            finally:
                print("finally")
        def thread():
            keep = lissom.spawn(work)
            lissom.schedule()
            ready.set()
        thread = threading.Thread(target=thread)
        thread.start()
        ready.wait()
        thread.join()
        print("end")
        """
    )
    assert done.stdout == "finally\nend\n"


def test_daemon_thread_with_a_scheduler_does_not_crash_the_end(script: Script) -> None:
    done = script(
        """
        import lissom, threading
        ready = threading.Event()
        def thread():
            lissom.spawn(ready.set)
            lissom.sleep(60)
        threading.Thread(target=thread, daemon=True).start()
        ready.wait()
        print("end")
        """
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


def test_program_that_calls_os_exit_in_a_tasklet(script: Script) -> None:
    done = script("import lissom, os; lissom.spawn(os._exit, 3); lissom.sleep(60)", check=False)
    assert done.returncode == 3


def test_tasklet_kept_in_a_module_outlives_the_end_without_a_crash(script: Script) -> None:
    done = script(
        """
        import builtins, lissom, sys
        def work():
            try:
                while True:
                    lissom.schedule_remove()
            finally:
                print("finally")
        builtins.keep = sys.keep = lissom.spawn(work)
        lissom.schedule()
        class Last:
            def __del__(self):
                print("last", builtins.keep.alive, lissom.getcurrent().is_main)
        builtins.last = Last()
        """
    )
    assert done.stdout.startswith("finally\n")
    assert "Fatal" not in done.stderr


def test_spawn_in_an_atexit_function_after_the_end(script: Script) -> None:
    done = script(
        """
        import atexit
        atexit.register(lambda: print(lissom.join(lissom.spawn(lambda: "still works"))))
        import lissom
        """
    )
    assert done.stdout == "still works\n"


def test_closed_standard_streams_do_no_harm(script: Script) -> None:
    done = script(
        """
        import lissom, sys
        def fail():
            raise LookupError
        sys.stderr = None
        lissom.spawn(fail)
        lissom.run()
        print("goes on")
        """
    )
    assert done.stdout == "goes on\n"
