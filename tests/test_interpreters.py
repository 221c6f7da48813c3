"""Code of other interpreters of the process waits without holding up the tasklets."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Script

if sys.version_info < (3, 13):
    pytest.skip("not hooked before 3.13", allow_module_level=True)

interpreters: Any = importlib.import_module("_interpreters")


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


@pytest.fixture
def interpreter() -> Iterator[Any]:
    """Another interpreter."""
    made = interpreters.create()
    yield made
    interpreters.destroy(made)


def test_code_that_waits_lets_others_run(interpreter: Any) -> None:
    reader, writer = os.pipe()
    code = f"import os; data = os.read({reader}, 100); os.write({writer}, data.upper())"
    waiter = lissom.spawn(interpreters.run_string, interpreter, code)
    lissom.sleep(0.05)
    assert waiter.waits_for == "a function in a blocking thread"
    os.write(writer, b"through")
    with lissom.timeout(30):
        lissom.join(waiter)
        assert os.read(reader, 100) == b"THROUGH"
    os.close(reader)
    os.close(writer)


def test_interpreters_that_wait_for_each_other(interpreter: Any) -> None:
    second = interpreters.create()
    (here, there), (ours, theirs) = os.pipe(), os.pipe()
    asks = f"import os; os.write({there}, b'ping'); assert os.read({ours}, 9) == b'pong'"
    answers = f"import os; assert os.read({here}, 9) == b'ping'; os.write({theirs}, b'pong')"
    with lissom.timeout(30):
        for tasklet in [
            lissom.spawn(interpreters.run_string, interpreter, asks),
            lissom.spawn(interpreters.run_string, second, answers),
        ]:
            lissom.join(tasklet)
    interpreters.destroy(second)
    for fd in (here, there, ours, theirs):
        os.close(fd)


def test_sending_waits_for_the_receiver() -> None:
    channels = importlib.import_module("_interpchannels")
    channel = channels.create(1)
    sender = lissom.spawn(channels.send, channel, b"through")
    lissom.sleep(0.02)
    assert sender.blocked
    assert channels.recv(channel)[0] == b"through"
    with lissom.timeout(30):
        lissom.join(sender)
    channels.send(channel, b"at once", blocking=False)
    assert channels.recv(channel)[0] == b"at once"
    channels.destroy(channel)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the pool is new in 3.14")
def test_pool_of_interpreters(script: Script) -> None:
    done = script(
        """
        from concurrent.futures import InterpreterPoolExecutor
        import time
        with InterpreterPoolExecutor(3) as pool:
            waits = [pool.submit(time.sleep, 0.1) for _ in range(3)]
            print([wait.result() for wait in waits], list(pool.map(abs, [-1, -2])))
        """,
        hooked=True,
    )
    assert done.stdout == "[None, None, None] [1, 2]\n"


@pytest.mark.skipif(not hasattr(importlib.import_module("_thread"), "_get_name"), reason="new in 3.14")
def test_threads_have_names_of_their_own_for_the_system(script: Script) -> None:
    done = script(
        """
        import threading, time
        import _thread
        def work():
            time.sleep(0.01)
            names.append(_thread._get_name())
        before, names = _thread._get_name(), []
        threads = [threading.Thread(target=work, name=f"the worker number {number}") for number in range(2)]
        for thread in threads: thread.start()
        print(_thread._get_name() == before)
        for thread in threads: thread.join()
        print(names)
        """,
        hooked=True,
    )
    assert done.stdout == "True\n['the worker numb', 'the worker numb']\n"
