"""The scheduler does what a model of it does, for random programs: `tests/model` says how they are made and compared.

The seeds here are fixed. `tools/fuzz_scheduler.py` runs others for as long as it is told to; what it finds is kept in
`tests/model/found`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
FOUND = sorted((HERE / "model" / "found").glob("*.json"))

# Programs in one test, which is one process: few enough to say which of them failed, enough to be quick.
BATCH = 500
THREADED_BATCH = 100


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `model.<name>` for ``model(name)``."""
    monkeypatch.syspath_prepend(str(HERE))
    return lambda name: importlib.import_module(f"model.{name}")


@pytest.fixture
def worker(model: Any) -> Any:
    """A process that runs programs."""
    with model("worker").Worker() as worker:
        yield worker


def report(model: Any, worker: Any, seed: str) -> None:
    """Fail with what went wrong, and with a small program on which it does."""
    outcome = worker.check(seed)
    if not outcome.failed:
        return
    program = model("worker").program_of(seed)
    if not seed.startswith("T"):
        program = model("shrink").shrink(program, lambda smaller: worker.check(smaller).kind == outcome.kind)
    pytest.fail(f"seed {seed}: {outcome.kind}\n{outcome.text}\n{program.dump()}", pytrace=False)


# ---- the real scheduler ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 6 * BATCH, BATCH))
def test_random_program_runs_as_on_the_model(model: Any, worker: Any, first: int) -> None:
    for seed in range(first, first + BATCH):
        report(model, worker, str(seed))


@pytest.mark.parametrize("first", range(0, 4 * THREADED_BATCH, THREADED_BATCH))
def test_random_program_on_several_threads_loses_and_doubles_nothing(model: Any, worker: Any, first: int) -> None:
    for seed in range(first, first + THREADED_BATCH):
        report(model, worker, f"T{seed}")


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_program_that_once_failed_runs_as_on_the_model(worker: Any, path: Path) -> None:
    text = path.read_text().replace("\n", " ")
    outcome = worker.check(("T" if '"family"' in text else "") + text)
    assert not outcome.failed, outcome.text


# ---- the model, against what is known of Stackless -------------------------------------------------------------------


def exchange_twice(model: Any, preference: int, schedule_all: int, receiver_first: bool) -> str:
    """Let a sender send 0 and 1 to a receiver on the model; return who came back from what, in order."""
    program = model("program")
    receiver = program.Body("setup", (program.Call("c[0].receive()"),) * 2)
    sender = program.Body("setup", (program.Call("c[0].send(0)"), program.Call("c[0].send(1)")))
    bodies = (receiver, sender) if receiver_first else (sender, receiver)
    main = (program.Call("stackless.run()"),)
    log = model("execute").run_on_model(program.Program(main, bodies, ((preference, schedule_all),)))
    order, sent, received = [], 0, 0
    for line in log:
        if ".send(" in line:
            order.append(f"w{sent}")
            sent += 1
        elif ".receive(" in line:
            order.append(f"r{received}")
            received += 1
    return " ".join(order)


@pytest.mark.parametrize(
    ("preference", "schedule_all", "receiver_first", "sender_first"),
    [
        (-1, 0, "r0 w0 r1 w1", "r0 w0 r1 w1"),
        (0, 0, "w0 r0 r1 w1", "r0 w0 w1 r1"),
        (1, 0, "w0 r0 w1 r1", "w0 r0 w1 r1"),
        (0, 1, "r0 w0 r1 w1", "w0 r0 w1 r1"),
    ],
)
def test_model_exchanges_in_the_order_of_stackless(
    model: Any, preference: int, schedule_all: int, receiver_first: str, sender_first: str
) -> None:
    assert exchange_twice(model, preference, schedule_all, receiver_first=True) == receiver_first
    assert exchange_twice(model, preference, schedule_all, receiver_first=False) == sender_first


def events(model: Any, main: str, *bodies: str) -> list[str]:
    """Run a program of scripts, calls with semicolons between, on the model; return what came of each call."""
    program = model("program")

    def script(text: str) -> Any:
        return tuple(program.Call(call.strip(), "none") for call in text.split(";"))

    source = program.Program(script(main), tuple(program.Body("setup", script(body)) for body in bodies), ((-1, 0),))
    return [line.partition(" | ")[0] for line in model("execute").run_on_model(source)[:-1]]


def test_model_keeps_the_place_of_a_queued_tasklet_that_is_killed(model: Any) -> None:
    # The three were started in order; those behind the one that is killed run before kill() returns.
    seen = events(model, "stackless.schedule(1); t[1].kill(); stackless.run()", *["stackless.schedule(2)"] * 3)
    assert seen == [
        "main: stackless.schedule(1) -> 1",
        "t1: stackless.schedule(2) raised TaskletExit: ",
        "t2: stackless.schedule(2) -> 2",
        "main: t[1].kill() -> None",
        "t0: stackless.schedule(2) -> 2",
        "main: stackless.run() -> None",
    ]


def test_model_gives_an_error_to_the_innermost_caller_of_run(model: Any) -> None:
    seen = events(model, "stackless.run()", "stackless.run()", "fail(1)")
    assert seen[:2] == ["t1: fail(1) raised ValueError: 1", "t0: stackless.run() raised ValueError: 1"]


@pytest.mark.parametrize(
    ("main", "body", "error"),
    [
        ("c[0].receive()", "stackless.schedule(1)", "the main tasklet is receiving without a sender available."),
        ("c[0].send(1)", "stackless.schedule(1)", "the main tasklet is sending without a receiver available."),
    ],
)
def test_model_wakes_the_blocked_main_tasklet_when_the_last_other_ends(
    model: Any, main: str, body: str, error: str
) -> None:
    assert events(model, main, body)[-1] == f"main: {main} raised RuntimeError: {error}"


def test_model_raises_the_deadlock_in_the_last_that_blocks(model: Any) -> None:
    error = "RuntimeError: Deadlock: the last runnable tasklet cannot be blocked."
    assert events(model, "c[0].receive()", "c[0].receive()")[0] == f"t0: c[0].receive() raised {error}"


# ---- the tools -------------------------------------------------------------------------------------------------------


def test_first_difference_between_logs_is_shown_with_what_led_there(model: Any) -> None:
    difference = model("execute").difference
    assert difference(["a", "b"], ["a", "b"]) == ""
    assert difference(["a", "b"], ["a", "c"]) == "  a\n  expected: b\n  but got:  c"
    assert "nothing more" in difference(["a"], ["a", "b"])


def test_shrinking_leaves_only_what_the_failure_needs(model: Any) -> None:
    program = model("program")

    def fails(candidate: Any) -> bool:
        texts = [call.text for calls in candidate.scripts() for call in calls]
        return any("kill" in text for text in texts) and any(".receive()" in text for text in texts)

    whole = next(made for seed in range(1000) if fails(made := model("generate").generate(seed)))
    small = model("shrink").shrink(whole, fails)
    assert small.size() == 2
    assert program.Program.load(small.dump()) == small


def test_worker_tells_of_crashes_and_goes_on(model: Any, worker: Any) -> None:
    program = model("program")
    crash = "__import__('ctypes').string_at(0)"
    assert worker.check(program.Program((program.Call(crash),))).kind == "crash"
    assert worker.check("1").kind in {"equal", "differs"}


def test_worker_tells_of_hangs(model: Any) -> None:
    program = model("program")
    hang = "type(stackless).__name__ == '_Module' and __import__('threading').Event().wait()"
    with model("worker").Worker(limit=0.2) as worker:
        assert worker.check(program.Program((program.Call(hang),))).kind == "hang"


def test_rendered_program_is_a_script_that_logs_the_same(model: Any, script: Any) -> None:
    program = model("program")
    body = program.Body("setup", (program.Call("c[0].receive()", "errors"), program.Call("fail('x')", "none")))
    main = tuple(map(program.Call, ("c[0].send(1)", "stackless.set_error_handler(handle)", "stackless.run()")))
    source = program.Program(main, (body, body), ((0, 0),), "two receivers")
    done = script(model("render").render(source))
    *expected, _ = model("execute").run_on_model(source)
    assert [line.partition(" | ")[0] for line in done.stdout.splitlines()] == [
        line.partition(" | ")[0] for line in expected
    ]
