"""Switching inside generators, coroutines and context managers, and the depth of calls."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


def test_generator_may_switch_inside() -> None:
    def numbers(name: str) -> Iterator[str]:
        for number in range(3):
            stackless.schedule()
            yield f"{name}{number}"

    got: list[str] = []
    for name in "ab":
        stackless.tasklet(lambda name=name: got.extend(numbers(name)))()
    stackless.run()
    assert sorted(got) == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_generator_that_waits_in_one_tasklet_cannot_be_advanced_in_another() -> None:
    def numbers() -> Iterator[int]:
        stackless.schedule()
        yield 1

    generator, got = numbers(), []
    stackless.tasklet(lambda: got.append(next(generator)))()
    stackless.schedule()
    with pytest.raises(ValueError, match="generator already executing"):
        next(generator)
    stackless.run()
    assert got == [1]


def test_generator_may_be_advanced_by_several_tasklets_in_turn() -> None:
    def numbers() -> Generator[int, None, None]:
        for number in range(6):
            try:
                raise LookupError(number)
            except LookupError as error:
                yield number
                assert sys.exception() is error

    generator, got = numbers(), []

    def work(name: str) -> None:
        for number in generator:
            assert sys.exception() is None
            got.append(f"{name}{number}")
            stackless.schedule()

    for name in "abc":
        stackless.tasklet(work)(name)
    stackless.run()
    assert got == ["a0", "b1", "c2", "a3", "b4", "c5"]


def test_coroutines_and_asynchronous_generators_may_switch() -> None:
    got: list[str] = []

    async def numbers(name: str) -> Any:
        for number in range(2):
            stackless.schedule()
            yield f"{name}{number}"

    async def consume(name: str) -> None:
        async for item in numbers(name):
            got.append(item)

    def drive(name: str) -> None:
        with pytest.raises(StopIteration):
            consume(name).send(None)

    for name in "ab":
        stackless.tasklet(drive)(name)
    stackless.run()
    assert got == ["a0", "b0", "a1", "b1"]


@pytest.mark.parametrize("where", ["enter", "body", "exit"])
@pytest.mark.parametrize("suppress", [False, True])
@pytest.mark.parametrize("kind", [None, LookupError])
def test_context_manager_may_switch(where: str, suppress: bool, kind: type[Exception] | None) -> None:
    class Manager:
        def __enter__(self) -> None:
            switch("enter")

        def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> bool:
            switch("exit")
            exits.append(exc_type)
            return suppress

    def switch(place: str) -> None:
        if place == where:
            stackless.schedule()

    exits: list[object] = []
    ends: list[object] = []

    def work() -> None:
        try:
            with Manager():
                switch("body")
                if kind is not None:
                    raise kind
        except LookupError as error:
            ends.append(type(error))
        else:
            ends.append(None)

    for _ in range(2):
        stackless.tasklet(work)()
    stackless.run()
    assert exits == [kind] * 2
    assert ends == [None if suppress else kind] * 2


def test_contextlib_managers_and_exit_stacks_may_switch() -> None:
    steps: list[str] = []

    @contextlib.contextmanager
    def manager(name: str) -> Iterator[None]:
        stackless.schedule()
        steps.append(f"enter {name}")
        try:
            yield
        finally:
            stackless.schedule()
            steps.append(f"exit {name}")

    def work() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(manager("a"))
            stack.enter_context(manager("b"))
            raise LookupError

    stackless.tasklet(work)()
    with pytest.raises(LookupError):
        stackless.run()
    assert steps == ["enter a", "enter b", "exit b", "exit a"]


def test_recursion_limit_is_per_tasklet() -> None:
    errors: list[type[BaseException]] = []

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            stackless.schedule()

    def endless() -> None:
        endless()

    def work() -> None:
        try:
            endless()
        except RecursionError as error:
            errors.append(type(error))

    limit = sys.getrecursionlimit()
    tasks = [stackless.tasklet(deep)(limit // 2) for _ in range(4)]
    stackless.schedule()
    stackless.tasklet(work)()
    stackless.run()
    assert errors == [RecursionError]
    assert not any(task.alive for task in tasks)
