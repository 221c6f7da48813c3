"""contextvars: every tasklet has a context, which is that of its creator, not a copy of it."""

from __future__ import annotations

import contextvars
import threading
from contextvars import Context, ContextVar

import pytest
import stackless

NAME: ContextVar[str] = ContextVar("NAME", default="default")

ENTERED = r"^the current context of the tasklet has been entered\.$"


def nothing() -> None:
    """Do nothing."""


def in_tasklet(function: object, context: Context | None = None) -> None:
    """Run a function in a tasklet, in a context of its own, so that nothing is left in that of the test."""
    task = stackless.tasklet(function)  # type: ignore[arg-type]
    task.set_context(context or Context())
    task()
    stackless.run()


# ---- the creator's context -------------------------------------------------------------------------------------------


def test_context_is_shared_with_the_creator() -> None:
    seen: list[str] = []

    def child() -> None:
        seen.append(NAME.get())
        NAME.set("set by the child")

    def parent() -> None:
        NAME.set("set by the parent")
        task = stackless.tasklet(child)()
        assert task.context_id == stackless.current.context_id
        stackless.schedule()
        seen.append(NAME.get())

    in_tasklet(parent)
    assert seen == ["set by the parent", "set by the child"]
    assert NAME.get() == "default"


def test_context_is_that_of_the_time_of_binding_the_function() -> None:
    context, other = Context(), Context()
    made = context.run(stackless.tasklet, nothing)
    assert made.context_id == id(context)
    assert other.run(made.bind, None, ()) is made
    assert made.context_id == id(context)
    made.bind(nothing)
    assert made.context_id == stackless.current.context_id
    other.run(made.bind, nothing, ())
    assert made.context_id == id(other)
    context.run(made.insert)
    assert made.context_id == id(other)
    stackless.run()


def test_context_of_setup_does_not_count() -> None:
    context, seen = Context(), []
    context.run(NAME.set, "in the context")
    task = stackless.tasklet(lambda: seen.append(NAME.get()))
    context.run(task)
    stackless.run()
    assert seen == ["default"]


def test_unbound_tasklet_has_an_empty_context_of_its_own() -> None:
    def work() -> None:
        NAME.set("set")
        first, second = stackless.tasklet(), stackless.tasklet()
        assert len({first.context_id, second.context_id, stackless.current.context_id}) == 3
        assert first.context_run(NAME.get) == "default"

    in_tasklet(work)


def test_main_tasklets_of_threads_have_contexts_of_their_own() -> None:
    ids: list[int] = []
    thread = threading.Thread(target=lambda: ids.append(stackless.current.context_id))
    thread.start()
    thread.join()
    assert ids != [stackless.current.context_id]


# ---- set_context -----------------------------------------------------------------------------------------------------


def test_set_context_returns_the_tasklet_and_is_active_while_it_runs() -> None:
    contexts, seen = [Context() for _ in range(2)], []

    def work(name: str) -> None:
        NAME.set(name)
        for _ in range(3):
            stackless.schedule()
            seen.append(NAME.get())

    for name, context in zip("ab", contexts, strict=True):
        task = stackless.tasklet(work)
        assert task.set_context(context) is task
        assert task.context_id == id(context)
        task(name)
    stackless.run()
    assert seen == ["a", "b"] * 3
    assert [context[NAME] for context in contexts] == ["a", "b"]
    assert NAME.get() == "default"


def test_set_context_of_a_waiting_tasklet_counts_when_it_goes_on() -> None:
    seen: list[str] = []

    def work() -> None:
        seen.append(NAME.get())
        stackless.schedule_remove()
        seen.append(NAME.get())

    task = stackless.tasklet(work)()
    stackless.run()
    context = Context()
    context.run(NAME.set, "changed")
    task.set_context(context)
    task.run()
    assert seen == ["default", "changed"]


def test_set_context_of_the_current_tasklet_counts_at_once() -> None:
    def work() -> None:
        context = Context()
        context.run(NAME.set, "changed")
        assert stackless.current.set_context(context) is stackless.current
        assert (NAME.get(), stackless.current.context_id) == ("changed", id(context))
        NAME.set("changed again")
        assert context[NAME] == "changed again"

    in_tasklet(work)


def test_set_context_inside_context_run_raises() -> None:
    def work() -> None:
        with pytest.raises(RuntimeError, match=ENTERED):
            stackless.current.set_context(Context())
        stackless.schedule_remove()

    context = Context()
    task = stackless.tasklet(context.run)(work)
    stackless.run()
    with pytest.raises(RuntimeError, match=ENTERED):
        task.set_context(Context())
    assert task.context_id == id(context)
    task.run()
    task.set_context(Context())


def test_set_context_refuses_tasklets_that_are_current_or_queued_in_another_thread() -> None:
    ready, release, tasks = threading.Event(), threading.Event(), []

    def thread_function() -> None:
        # The third has no context yet: that of a thread has been entered from 3.14 on.
        tasks.extend((stackless.current, stackless.tasklet(nothing)(), stackless.tasklet()))
        ready.set()
        release.wait()
        stackless.run()

    thread = threading.Thread(target=thread_function)
    thread.start()
    ready.wait()
    current, queued, unbound = tasks
    try:
        for task in (current, queued):
            with pytest.raises(RuntimeError, match=r"^tasklet belongs to a different thread$"):
                task.set_context(Context())
        context = Context()
        assert unbound.set_context(context).context_id == id(context)
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("wrong", [None, 5, {}])
def test_set_context_takes_contexts_only(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"^set_context\(\) argument must be .*Context, not "):
        stackless.tasklet().set_context(wrong)


# ---- context_run -----------------------------------------------------------------------------------------------------


def test_context_run_calls_in_the_context_of_the_tasklet() -> None:
    context = Context()
    task = stackless.tasklet(nothing).set_context(context)

    def function(*args: object, **kwargs: object) -> object:
        NAME.set("set inside")
        return args, kwargs, stackless.current

    assert task.context_run(function, 1, 2, key=3) == ((1, 2), {"key": 3}, stackless.current)
    assert (context[NAME], NAME.get()) == ("set inside", "default")
    assert task.context_run(NAME.get) == "set inside"


def test_context_run_restores_the_context_after_an_exception() -> None:
    before = stackless.current.context_id
    task = stackless.tasklet(nothing).set_context(Context())
    with pytest.raises(KeyError, match="gone"):
        task.context_run({}.__getitem__, "gone")
    assert stackless.current.context_id == before


def test_context_run_works_where_context_run_would_refuse() -> None:
    # An entered context cannot be entered again; context_run does not enter it.
    def work() -> None:
        NAME.set("mine")
        assert stackless.current.context_run(NAME.get) == "mine"
        stackless.schedule_remove()

    context = Context()
    task = stackless.tasklet(context.run)(work)
    stackless.run()
    with pytest.raises(RuntimeError, match="already entered"):
        context.run(nothing)
    assert task.context_run(NAME.get) == "mine"
    task.run()


def test_context_run_may_switch() -> None:
    seen: list[str] = []

    def other() -> None:
        seen.append(NAME.get())

    def inside() -> str:
        NAME.set("inside")
        stackless.schedule()
        return NAME.get()

    task = stackless.tasklet(nothing).set_context(Context())
    stackless.tasklet(other)()
    assert task.context_run(inside) == "inside"
    assert (seen, NAME.get()) == (["default"], "default")


# ---- together with contextvars ---------------------------------------------------------------------------------------


def test_tasklet_stays_inside_context_run_over_switches() -> None:
    seen: list[str] = []

    def inside(name: str) -> None:
        NAME.set(name)
        stackless.schedule()
        seen.append(NAME.get())

    def work(name: str) -> None:
        contextvars.copy_context().run(inside, name)
        seen.append(NAME.get())

    for name in "ab":
        stackless.tasklet(work)(name)
    stackless.run()
    assert seen == ["a", "default", "b", "default"]


def test_token_resets_in_the_tasklet_that_made_it() -> None:
    seen: list[str] = []

    def work(name: str) -> None:
        token = NAME.set(name)
        stackless.schedule()
        seen.append(NAME.get())
        NAME.reset(token)
        seen.append(NAME.get())

    for name in "ab":
        task = stackless.tasklet(work).set_context(Context())
        task(name)
    stackless.run()
    assert seen == ["a", "default", "b", "default"]


def test_unpicklable_state_is_the_context() -> None:
    context = Context()
    task = stackless.tasklet(nothing).set_context(context)
    assert stackless._tasklet_get_unpicklable_state(task) == {"context": context}
    assert stackless._tasklet_get_unpicklable_state(task)["context"] is context
    current = stackless._tasklet_get_unpicklable_state(stackless.current)["context"]
    assert (type(current), id(current)) == (Context, stackless.current.context_id)
    with pytest.raises(TypeError):
        stackless._tasklet_get_unpicklable_state(5)
