"""Channels: who goes on after an exchange, balance, closing, iteration, exceptions."""

from __future__ import annotations

import lissom
import pytest


def exchange_twice(channel: lissom.channel, receiver_first: bool) -> str:
    """Let a sender send 0 and 1 to a receiver; return who came back from what, in order."""
    order: list[str] = []

    def receiver() -> None:
        for _ in range(2):
            order.append(f"r{channel.receive()}")

    def sender() -> None:
        for number in range(2):
            channel.send(number)
            order.append(f"w{number}")

    first, second = (receiver, sender) if receiver_first else (sender, receiver)
    lissom.spawn(first)
    lissom.spawn(second)
    lissom.run()
    return " ".join(order)


# ---- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preference", "receiver_first", "sender_first"),
    [
        (-1, "r0 w0 r1 w1", "r0 w0 r1 w1"),
        (0, "w0 r0 r1 w1", "r0 w0 w1 r1"),
        (1, "w0 r0 w1 r1", "w0 r0 w1 r1"),
    ],
)
def test_preference_says_who_goes_on(preference: int, receiver_first: str, sender_first: str) -> None:
    channel = lissom.channel()
    channel.preference = preference
    assert exchange_twice(channel, receiver_first=True) == receiver_first
    assert exchange_twice(channel, receiver_first=False) == sender_first


@pytest.mark.parametrize("preference", [-1, 0, 1])
def test_schedule_all_overrides_preference(preference: int) -> None:
    channel = lissom.channel()
    channel.preference = preference
    channel.schedule_all = 1
    assert exchange_twice(channel, receiver_first=True) == "r0 w0 r1 w1"
    assert exchange_twice(channel, receiver_first=False) == "w0 r0 w1 r1"


def test_send_to_a_waiting_receiver_switches_at_once_by_default() -> None:
    channel, order = lissom.channel(), []
    lissom.spawn(lambda: order.append(channel.receive()))
    lissom.schedule()
    channel.send("received")
    order.append("sent")
    assert order == ["received", "sent"]


def test_receive_from_a_waiting_sender_does_not_switch_by_default() -> None:
    channel, order = lissom.channel(), []
    lissom.spawn(lambda: (channel.send("value"), order.append("sent")))
    lissom.schedule()
    order.append(channel.receive())
    assert order == ["value"]
    lissom.run()
    assert order == ["value", "sent"]


def test_waiters_are_served_in_the_order_of_their_coming() -> None:
    channel, order = lissom.channel(), []
    for name in "abc":
        lissom.spawn(lambda name=name: order.append((name, channel.receive())))
    lissom.schedule()
    for number in range(3):
        channel.send(number)
    assert order == [("a", 0), ("b", 1), ("c", 2)]


def test_send_returns_none_and_receive_the_very_object() -> None:
    channel, value = lissom.channel(), object()
    sender = lissom.spawn(channel.send, value)
    assert channel.receive() is value
    assert lissom.join(sender) is None


def test_many_producers_and_consumers_lose_nothing() -> None:
    channel, received = lissom.channel(), []

    def produce(start: int) -> None:
        for number in range(start, start + 100):
            channel.send(number)

    def consume() -> None:
        for _ in range(100):
            received.append(channel.receive())

    tasklets = [lissom.spawn(produce, start) for start in range(0, 1000, 100)]
    tasklets += [lissom.spawn(consume) for _ in range(10)]
    for tasklet in tasklets:
        lissom.join(tasklet)
    assert sorted(received) == list(range(1000))


# ---- attributes ------------------------------------------------------------------------------------------------------


def test_new_channel_has_the_defaults_of_stackless() -> None:
    channel = lissom.channel()
    state = (channel.balance, channel.preference, channel.schedule_all, channel.closing, channel.closed, channel.queue)
    assert state == (0, -1, 0, False, False, None)


def test_balance_counts_waiting_senders_positive_and_receivers_negative() -> None:
    channel = lissom.channel()
    tasklets = [lissom.spawn(channel.send, None) for _ in range(3)]
    lissom.schedule()
    assert channel.balance == 3
    assert channel.queue is tasklets[0]
    for _ in range(3):
        channel.receive()
    tasklets = [lissom.spawn(channel.receive) for _ in range(2)]
    lissom.schedule()
    assert channel.balance == -2
    for _ in tasklets:
        channel.send(None)
    assert channel.balance == 0


def test_killed_waiter_leaves_the_channel() -> None:
    channel = lissom.channel()
    first, second = lissom.spawn(channel.receive), lissom.spawn(channel.receive)
    lissom.schedule()
    first.kill()
    assert channel.balance == -1
    assert channel.queue is second
    channel.send("for the second")
    assert lissom.join(second) == "for the second"


@pytest.mark.parametrize(("given", "kept"), [(-5, -1), (-1, -1), (0, 0), (1, 1), (7, 1), (True, 1)])
def test_preference_is_clamped(given: int, kept: int) -> None:
    channel = lissom.channel()
    channel.preference = given
    assert channel.preference == kept


def test_wrong_types_of_attributes_raise_with_the_texts_of_stackless() -> None:
    channel = lissom.channel()
    with pytest.raises(TypeError, match="preference must be set to an integer"):
        channel.preference = "high"
    with pytest.raises(TypeError, match="preference must be set to a bool or integer"):
        channel.schedule_all = "yes"
    with pytest.raises(AttributeError):
        channel.balance = 1


# ---- closing ---------------------------------------------------------------------------------------------------------


def test_blocking_on_a_closed_channel_raises_value_error() -> None:
    channel = lissom.channel()
    channel.close()
    assert channel.closing
    assert channel.closed
    for action in (channel.receive, lambda: channel.send(1)):
        with pytest.raises(ValueError, match="Send/receive operation on a closed channel"):
            action()


def test_closing_channel_still_serves_who_waits() -> None:
    channel = lissom.channel()
    sender = lissom.spawn(channel.send, "last")
    lissom.schedule()
    channel.close()
    assert channel.closing
    assert not channel.closed
    assert channel.receive() == "last"
    assert channel.closed
    lissom.join(sender)


def test_open_undoes_close() -> None:
    channel = lissom.channel()
    channel.close()
    channel.open()
    assert not channel.closing
    lissom.spawn(channel.send, 1)
    assert channel.receive() == 1


def test_close_does_not_wake_a_waiting_receiver() -> None:
    channel = lissom.channel()
    receiver = lissom.spawn(channel.receive)
    lissom.schedule()
    channel.close()
    lissom.run()
    assert receiver.blocked
    receiver.kill()


def test_iteration_ends_when_a_closing_channel_has_no_senders() -> None:
    channel = lissom.channel()

    def produce() -> None:
        for number in range(3):
            channel.send(number)
        channel.close()
        channel.send_exception(StopIteration)

    received: list[int] = []
    consumer = lissom.spawn(lambda: received.extend(channel))
    producer = lissom.spawn(produce)
    lissom.join(producer)
    lissom.join(consumer)
    assert received == [0, 1, 2]
    assert list(channel) == []


def test_iterator_of_a_channel_is_the_channel() -> None:
    channel = lissom.channel()
    assert iter(channel) is channel
    lissom.spawn(channel.send, 5)
    assert next(channel) == 5


# ---- exceptions ------------------------------------------------------------------------------------------------------


def test_send_exception_raises_in_the_receiver_with_its_arguments() -> None:
    channel = lissom.channel()
    sender = lissom.spawn(channel.send_exception, OSError, 5, "text")
    with pytest.raises(OSError, match="text") as caught:
        channel.receive()
    assert caught.value.errno == 5
    assert lissom.join(sender) is None


def test_send_exception_reaches_a_receiver_that_waits_already() -> None:
    channel = lissom.channel()
    receiver = lissom.spawn(channel.receive)
    lissom.schedule()
    joiner = lissom.spawn(lissom.join, receiver)
    lissom.schedule()
    channel.send_exception(LookupError, "sent")
    with pytest.raises(LookupError, match="sent"):
        lissom.join(joiner)


@pytest.mark.parametrize("wrong", [5, int, "text", ValueError()])
def test_send_exception_of_no_exception_class_raises_type_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="needs Exception or string subclass as first parameter"):
        lissom.channel().send_exception(wrong)


def test_exception_thrown_into_a_waiting_sender_takes_its_value_back() -> None:
    channel = lissom.channel()

    def send() -> str:
        try:
            channel.send("withdrawn")
        except LookupError:
            return "interrupted"
        return "sent"

    sender = lissom.spawn(send)
    lissom.schedule()
    sender.throw(LookupError)
    assert lissom.join(sender) == "interrupted"
    assert channel.balance == 0


def test_timeout_ends_the_wait_on_a_channel_and_the_channel_works_on() -> None:
    channel = lissom.channel()
    with pytest.raises(TimeoutError), lissom.timeout(0.01):
        channel.receive()
    assert channel.balance == 0
    lissom.spawn(channel.send, "later")
    assert channel.receive() == "later"


def test_subclass_with_its_own_init_and_attributes() -> None:
    class Named(lissom.channel):
        def __init__(self, name: str) -> None:
            self.name = name

    channel = Named("mail")
    lissom.spawn(channel.send, 1)
    assert (channel.receive(), channel.name) == (1, "mail")
