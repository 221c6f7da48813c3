"""Several things at once: select over channels, wait, groups, pools, futures, queues."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from typing import TYPE_CHECKING

import lissom
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


class TestSelect:
    def test_first_case_that_is_ready_takes_place(self) -> None:
        first, second = lissom.channel(), lissom.channel()
        lissom.spawn(second.send, "b")
        lissom.schedule()
        assert lissom.select(first, second) == (1, "b")
        lissom.spawn(first.receive)
        lissom.schedule()
        assert lissom.select((first, "a"), second) == (0, None)
        lissom.run()
        assert (first.balance, second.balance) == (0, 0)

    def test_without_a_partner_it_does_not_block_if_told(self) -> None:
        channel = lissom.channel()
        assert lissom.select(channel, (channel, 1), block=False) is None
        assert channel.balance == 0

    @pytest.mark.parametrize("preference", [-1, 0, 1])
    def test_who_waits_gets_what_comes_first(self, preference: int) -> None:
        channels = [lissom.channel() for _ in range(3)]
        for channel in channels:
            channel.preference = preference
        selecting = lissom.spawn(lissom.select, *channels)
        lissom.schedule()
        assert [channel.balance for channel in channels] == [-1, -1, -1]
        assert channels[0].queue is selecting
        assert "one of 3 channels" in (selecting.waits_for or "")
        channels[1].send("x")
        assert lissom.join(selecting) == (1, "x")
        assert [channel.balance for channel in channels] == [0, 0, 0]

    def test_offer_is_taken_once(self) -> None:
        first, second = lissom.channel(), lissom.channel()
        selecting = lissom.spawn(lissom.select, (first, "a"), (second, "b"))
        lissom.schedule()
        assert (first.balance, second.balance) == (1, 1)
        assert second.receive() == "b"
        assert lissom.join(selecting) == (1, None)
        assert first.balance == 0

    def test_two_that_select_meet(self) -> None:
        channel, other = lissom.channel(), lissom.channel()
        taker = lissom.spawn(lissom.select, other, channel)
        lissom.schedule()
        giver = lissom.spawn(lissom.select, (channel, 5), other)
        assert lissom.join(taker) == (1, 5)
        assert lissom.join(giver) == (0, None)
        assert (channel.balance, other.balance) == (0, 0)

    def test_timeout_leaves_every_channel(self) -> None:
        channels = [lissom.channel(), lissom.channel()]
        assert lissom.select(*channels, timeout=0.01) is None
        assert [channel.balance for channel in channels] == [0, 0]
        assert lissom.select(timeout=0.001) is None

    def test_kill_leaves_every_channel(self) -> None:
        channels = [lissom.channel(), lissom.channel()]
        selecting = lissom.spawn(lissom.select, channels[0], (channels[1], 1))
        lissom.schedule()
        selecting.kill()
        assert [channel.balance for channel in channels] == [0, 0]
        assert not selecting.alive

    def test_exception_that_was_sent_is_raised(self) -> None:
        channel = lissom.channel()

        def work() -> str:
            with pytest.raises(LookupError, match="gone"):
                lissom.select(channel)
            return "raised"

        selecting = lissom.spawn(work)
        lissom.schedule()
        channel.send_exception(LookupError, "gone")
        assert lissom.join(selecting) == "raised"

    def test_waiters_are_served_in_their_order(self) -> None:
        channel = lissom.channel()
        order: list[int] = []

        def select(number: int) -> None:
            order.append(number + 10 * (lissom.select(channel) or (0, 0))[1])

        def receive(number: int) -> None:
            order.append(number + 10 * channel.receive())

        for number, work in enumerate([select, receive, select]):
            lissom.spawn(work, number)
        lissom.schedule()
        for value in (1, 2, 3):
            channel.send(value)
        assert order == [10, 21, 32]

    def test_channel_of_another_thread(self) -> None:
        channel, back = lissom.channel(), lissom.channel()
        thread = threading.Thread(target=lambda: back.send(lissom.select(channel, back)))
        thread.start()
        channel.send("hello")
        assert back.receive() == (0, "hello")
        thread.join()

    def test_wrong_cases_are_refused(self) -> None:
        with pytest.raises(TypeError, match="each case of select"):
            lissom.select(1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="without cases"):
            lissom.select()
        closed = lissom.channel()
        closed.close()
        with pytest.raises(ValueError, match="closed channel"):
            lissom.select(lissom.channel(), closed)

    def test_deadlock_names_it(self) -> None:
        with pytest.raises(RuntimeError, match="one of 2 channels"):
            lissom.select(lissom.channel(), lissom.channel())

    def test_random_selects_lose_and_duplicate_nothing(self) -> None:
        import random

        rng = random.Random(7)
        channels = [lissom.channel() for _ in range(3)]
        received: list[int] = []
        count = 300

        def give(values: list[int]) -> None:
            for value in values:
                lissom.select(*[(channel, value) for channel in rng.sample(channels, rng.randint(1, 3))])

        def take(number: int) -> None:
            for _ in range(number):
                result = lissom.select(*rng.sample(channels, 3))
                assert result is not None
                received.append(result[1])

        givers = [lissom.spawn(give, list(range(start, count, 3))) for start in range(3)]
        takers = [lissom.spawn(take, count // 2) for _ in range(2)]
        for tasklet in givers + takers:
            lissom.join(tasklet)
        assert sorted(received) == list(range(count))
        assert [channel.balance for channel in channels] == [0, 0, 0]


class TestWait:
    def test_any_all_and_timeouts(self) -> None:
        slow, fast = lissom.spawn(lissom.sleep, 30), lissom.spawn(lambda: "fast")
        assert lissom.wait_any([slow, fast]) is fast
        done, not_done = lissom.wait([slow, fast], timeout=0.01)
        assert (done, not_done) == ({fast}, {slow})
        with pytest.raises(TimeoutError, match="1 of 2"):
            lissom.wait_all([slow, fast], timeout=0.01)
        slow.kill()
        assert lissom.wait_all([slow, fast]) == [None, "fast"]

    def test_futures_and_tasklets_together(self) -> None:
        real: concurrent.futures.Future[int] = concurrent.futures.Future()
        own = lissom.Future()
        tasklet = lissom.spawn(own.set_result, 1)
        assert lissom.wait_any([real, own, tasklet]) in (own, tasklet)
        threading.Timer(0.01, real.set_result, [2]).start()
        assert lissom.wait_all([real, own]) == [2, 1]

    def test_first_exception(self) -> None:
        def fail() -> None:
            raise LookupError

        forever, failing = lissom.spawn(lissom.sleep, 30), lissom.Future()
        lissom.spawn(lambda: failing.set_exception(LookupError()))
        done, not_done = lissom.wait([forever, failing], return_when=concurrent.futures.FIRST_EXCEPTION)
        assert (done, not_done) == ({failing}, {forever})
        forever.kill()

    def test_other_things_are_refused(self) -> None:
        with pytest.raises(TypeError, match="a tasklet or a future"):
            lissom.wait([1])  # type: ignore[list-item]


class TestGroups:
    def test_map_and_imap_keep_the_order(self) -> None:
        order = [3, 1, 4, 0, 2]
        group = lissom.Group()

        def started() -> Callable[[int], int]:
            """Return a function whose calls end in `order`, one after the other."""
            events = [lissom.Event() for _ in order]

            def release() -> None:
                for number in order:
                    events[number].set()
                    # The call ends, and then whoever waits for it goes on.
                    lissom.schedule()
                    lissom.schedule()

            def later(number: int) -> int:
                events[number].wait()
                return number

            lissom.spawn(release)
            return later

        assert group.map(started(), range(5)) == [0, 1, 2, 3, 4]
        assert list(group.imap(started(), range(5))) == [0, 1, 2, 3, 4]
        assert list(group.imap_unordered(started(), range(5))) == order
        assert group.apply(abs, -3) == 3
        assert len(group) == 0

    def test_exceptions_reach_who_asks(self) -> None:
        group = lissom.Group()
        with pytest.raises(ZeroDivisionError):
            group.map(lambda number: 1 / number, [1, 0])
        with pytest.raises(ZeroDivisionError), lissom.Group() as failing:
            failing.spawn(lambda: 1 / 0)

    def test_join_with_a_timeout_and_kill(self) -> None:
        group = lissom.Group()
        ended: list[int] = []

        def work() -> None:
            try:
                lissom.sleep(30)
            finally:
                ended.append(1)

        members = [group.spawn(work) for _ in range(3)]
        assert group.join(timeout=0.01) is False
        assert set(group) == set(members)
        assert members[0] in group
        group.kill()
        assert (len(group), ended) == (0, [1, 1, 1])

    def test_pool_runs_no_more_than_its_size(self) -> None:
        running = most = 0

        def work(number: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            lissom.sleep(0.001)
            running -= 1
            return number

        pool = lissom.Pool(3)
        assert pool.map(work, range(10)) == list(range(10))
        assert most == 3
        with pytest.raises(ValueError, match="size"):
            lissom.Pool(0)


class TestExecutor:
    def test_it_is_an_executor(self) -> None:
        with lissom.TaskletPoolExecutor(2) as executor:
            assert isinstance(executor, concurrent.futures.Executor)
            futures = [executor.submit(pow, 2, number) for number in range(5)]
            assert [future.result() for future in futures] == [1, 2, 4, 8, 16]
            assert list(executor.map(lambda x: x + 1, [1, 2])) == [2, 3]
            failing = executor.submit(lambda: 1 / 0)
            assert isinstance(failing.exception(), ZeroDivisionError)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(print)

    def test_what_has_not_begun_can_be_cancelled(self) -> None:
        executor = lissom.TaskletPoolExecutor(1)
        first = executor.submit(lissom.sleep, 0.01)
        second = executor.submit(print, "never")
        lissom.schedule()
        executor.shutdown(cancel_futures=True)
        assert first.done()
        assert second.cancelled()

    def test_result_with_a_timeout(self) -> None:
        executor = lissom.TaskletPoolExecutor()
        future = executor.submit(lissom.sleep, 0.05)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.001)
        executor.shutdown()


class TestQueues:
    @pytest.mark.parametrize("kind", [lissom.Queue, lissom.LifoQueue, lissom.PriorityQueue])
    def test_producer_waits_when_it_is_full(self, kind: type[lissom.Queue]) -> None:
        things = kind(1)
        taken: list[int] = []

        def produce() -> None:
            for number in range(5):
                things.put(number)

        def consume() -> None:
            for _ in range(5):
                taken.append(things.get())
                things.task_done()

        lissom.spawn(produce)
        consumer = lissom.spawn(consume)
        lissom.join(consumer)
        things.join()
        assert taken == [0, 1, 2, 3, 4]
        with pytest.raises(queue.Empty):
            things.get(timeout=0.001)
        things.put(1)
        with pytest.raises(queue.Full):
            things.put(2, timeout=0.001)

    def test_queue_channel_buffers_and_ends(self) -> None:
        channel = lissom.QueueChannel(2)
        sender = lissom.spawn(lambda: [channel.send(number) for number in range(5)] and channel.close())
        lissom.schedule()
        assert channel.balance == 2
        assert sender.blocked
        assert list(channel) == [0, 1, 2, 3, 4]
        assert channel.closed
        with pytest.raises(ValueError, match="closed channel"):
            channel.send(1)
        with pytest.raises(ValueError, match="closed channel"):
            channel.receive()
        channel.open()
        with pytest.raises(TimeoutError):
            channel.receive(timeout=0.001)
