"""An asyncio loop runs in the main tasklet, and one in each of several tasklets, all at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Script


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    """Hook for every test here."""
    lissom.hook()
    yield
    lissom.unhook()


async def ticks(count: int) -> list[int]:
    """Return numbers, one after each short sleep."""
    numbers = []
    for number in range(count):
        await asyncio.sleep(0.001)
        numbers.append(number)
    return numbers


def test_loop_runs_in_the_main_tasklet_while_others_run() -> None:
    order: list[int] = []

    def work() -> None:
        for number in range(3):
            order.append(number)
            time.sleep(0.001)

    tasklet = lissom.spawn(work)
    assert asyncio.run(ticks(10)) == list(range(10))
    lissom.join(tasklet)
    assert order == [0, 1, 2]


@pytest.mark.parametrize("kind", ["thread", "tasklet"])
def test_each_tasklet_may_have_a_loop(kind: str) -> None:
    results: list[list[int]] = []

    def work() -> None:
        results.append(asyncio.run(ticks(5)))

    if kind == "thread":
        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    else:
        for tasklet in [lissom.spawn(work) for _ in range(5)]:
            lissom.join(tasklet)
    assert results == [[0, 1, 2, 3, 4]] * 5


def test_running_loop_and_current_task_are_those_of_the_tasklet() -> None:
    seen = []

    async def look(name: str) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        for _ in range(3):
            await asyncio.sleep(0.001)
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is task
            assert asyncio.all_tasks() == {task}
        seen.append(name)

    def no_loop() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        seen.append("none")

    threads = [threading.Thread(target=asyncio.run, args=[look(name)]) for name in "ab"]
    threads.append(threading.Thread(target=no_loop))
    for thread in threads:
        thread.start()
    asyncio.run(look("main"))
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == ["a", "b", "main", "none"]


def test_streams_between_a_loop_and_plain_sockets() -> None:
    import socket

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    addresses = lissom.channel()

    def client() -> list[bytes]:
        with socket.create_connection(addresses.receive()) as sock, sock.makefile("rwb", buffering=0) as stream:
            answers = []
            for word in (b"one\n", b"two\n"):
                stream.write(word)
                answers.append(stream.readline())
            return answers

    async def serve(tasklet: lissom.tasklet) -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        addresses.send(server.sockets[0].getsockname())
        while tasklet.alive:
            await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()

    tasklet = lissom.spawn(client)
    asyncio.run(serve(tasklet))
    assert lissom.join(tasklet) == [b"ONE\n", b"TWO\n"]


def test_to_thread_and_executors_run_as_tasklets() -> None:
    async def main() -> list[object]:
        work = [asyncio.to_thread(lambda number=number: (time.sleep(0.001), number)[1]) for number in range(10)]
        return await asyncio.gather(*work)

    assert asyncio.run(main()) == list(range(10))


def test_call_soon_threadsafe_from_another_tasklet_wakes_the_loop() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def work() -> None:
            time.sleep(0.005)
            loop.call_soon_threadsafe(future.set_result, "woken")

        threading.Thread(target=work).start()
        return await asyncio.wait_for(future, 30)

    assert asyncio.run(main()) == "woken"


def test_run_coroutine_threadsafe_is_waited_for_by_a_tasklet() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(ticks(3), loop)
    assert future.result(30) == [0, 1, 2]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


def test_timeouts_and_cancellation() -> None:
    async def main() -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.005):
                await asyncio.sleep(60)
            return "not timed out"
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0.001)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    assert asyncio.run(main()) == "cancelled"


def test_subprocess_of_a_loop() -> None:
    import sys

    async def main() -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-S",
            "-c",
            "print(input() * 2)",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(b"ab\n")
        assert process.returncode == 0
        return output

    assert asyncio.run(main()) == b"abab\n"


def test_signal_handler_of_a_loop() -> None:
    import os

    async def main() -> int:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, future.set_result, signal.SIGUSR1)
        loop.call_later(0.005, os.kill, os.getpid(), signal.SIGUSR1)
        try:
            return await asyncio.wait_for(future, 30)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    assert asyncio.run(main()) == signal.SIGUSR1


def test_async_generators_are_finalised_by_their_own_loop() -> None:
    closed = []

    async def numbers() -> object:
        try:
            yield 1
        finally:
            closed.append(threading.get_ident())

    async def main() -> None:
        async for _ in numbers():
            break

    def work() -> None:
        asyncio.run(main())
        assert closed.count(threading.get_ident()) == 1

    for tasklet in [lissom.spawn(work) for _ in range(3)]:
        lissom.join(tasklet)
    assert len(closed) == 3


def test_interrupt_ends_the_loop_and_cancels_the_main_task(script: Script) -> None:
    done = script(
        """
        import asyncio, os, signal, threading, time
        async def main():
            threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGINT]).start()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("cancelled")
                raise
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """,
        hooked=True,
    )
    assert done.stdout == "cancelled\ninterrupted\n"
