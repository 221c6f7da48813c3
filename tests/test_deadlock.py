"""A program in which nothing can run any more ends with an error that says what each tasklet waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from conftest import Script

DEADLOCK = "Deadlock: the last runnable tasklet cannot be blocked."


def report(error: BaseException) -> str:
    """Return all that a traceback shows of the error: its text and its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def test_main_that_receives_without_a_sender_gets_the_error() -> None:
    # The second text if a tasklet that an earlier test has left ends meanwhile.
    with pytest.raises(RuntimeError, match=f"{DEADLOCK}|the main tasklet is receiving without a sender") as caught:
        lissom.channel().receive()
    assert "tasklet main" in report(caught.value)
    assert "waits for a sender on the channel" in report(caught.value)
    assert "test_main_that_receives_without_a_sender" in report(caught.value)


def test_main_that_sends_without_a_receiver_gets_the_error() -> None:
    with pytest.raises(RuntimeError, match=DEADLOCK) as caught:
        lissom.channel().send(1)
    assert "waits for a receiver on the channel" in report(caught.value)


def test_every_waiting_tasklet_is_named_with_its_place() -> None:
    channel = lissom.channel()

    def first_function() -> None:
        channel.receive()

    def second_function() -> None:
        lissom.join(first)

    first = lissom.spawn(first_function)
    second = lissom.spawn(second_function)
    with pytest.raises(RuntimeError, match=DEADLOCK) as caught:
        lissom.join(second)
    text = str(caught.value)
    for part in ("in first_function, ", "in second_function, ", "a sender on the channel", "the end of the tasklet"):
        assert part in text
    assert f"{__file__}:" in text
    first.kill()
    lissom.run()


def test_text_of_a_deadlock_on_a_channel_is_that_of_stackless() -> None:
    with pytest.raises(RuntimeError) as caught:
        lissom.channel().receive()
    assert str(caught.value) == DEADLOCK


def test_main_can_catch_the_error_and_go_on() -> None:
    channel = lissom.channel()
    with pytest.raises(RuntimeError, match=DEADLOCK):
        channel.receive()
    assert channel.balance == 0
    lissom.spawn(channel.send, 1)
    assert channel.receive() == 1


def test_deadlock_of_the_others_is_no_error_for_run() -> None:
    channel = lissom.channel()
    blocked = lissom.spawn(channel.receive)
    lissom.run()
    assert blocked.blocked
    blocked.kill()


def test_paused_main_tasklet_goes_on_when_nobody_else_can() -> None:
    """As in Stackless: it is what is left of the thread."""
    assert lissom.schedule_remove(7) == 7
    blocked = lissom.spawn(lissom.channel().receive)
    assert lissom.schedule_remove(8) == 8
    assert blocked.blocked
    blocked.kill()


def test_join_of_a_paused_tasklet_is_a_deadlock() -> None:
    paused = lissom.spawn(lissom.schedule_remove)
    lissom.schedule()
    with pytest.raises(RuntimeError, match=DEADLOCK):
        lissom.join(paused)
    paused.kill()


def test_wait_for_time_is_no_deadlock() -> None:
    channel = lissom.channel()

    def send_later() -> None:
        lissom.sleep(0.01)
        channel.send("late")

    lissom.spawn(send_later)
    assert channel.receive() == "late"


def test_program_ends_with_the_report_and_not_with_a_hang(script: Script) -> None:
    done = script(
        """
        import threading
        first, second = threading.Lock(), threading.Lock()
        both = threading.Barrier(2)
        def takes(one, other):
            with one:
                both.wait()
                with other:
                    pass
        threads = [threading.Thread(target=takes, args=pair) for pair in ((first, second), (second, first))]
        for thread in threads:
            thread.daemon = True
            thread.start()
        for thread in threads:
            thread.join()
        """,
        hooked=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"RuntimeError: {DEADLOCK}" in done.stderr
    assert done.stderr.count("waits for the lock at 0x") >= 2
    assert done.stderr.count("in takes") + done.stderr.count("(in ") >= 2


def test_deadlock_at_the_end_of_the_program_is_reported(script: Script) -> None:
    """A thread that is no daemon is awaited at the end; here it can never end."""
    done = script(
        """
        import threading
        lock = threading.Lock()
        lock.acquire()
        threading.Thread(target=lock.acquire).start()
        print("end of main")
        """,
        hooked=True,
        check=False,
    )
    assert done.stdout == "end of main\n"
    assert DEADLOCK in done.stderr
    assert "waits for the lock at 0x" in done.stderr


def test_real_thread_that_could_still_wake_somebody_is_waited_for(script: Script) -> None:
    done = script(
        """
        import lissom, threading
        channel = lissom.channel()
        def thread():
            import time
            time.sleep(0.05)
            channel.send("from a thread")
        threading.Thread(target=thread).start()
        print(channel.receive())
        """
    )
    assert done.stdout == "from a thread\n"


def test_deadlock_is_found_when_the_last_other_thread_has_ended(script: Script) -> None:
    done = script(
        """
        import lissom, threading, time
        threading.Thread(target=time.sleep, args=[0.05]).start()
        lissom.channel().receive()
        """,
        check=False,
    )
    assert done.returncode == 1
    assert DEADLOCK in done.stderr
