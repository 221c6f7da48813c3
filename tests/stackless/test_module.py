"""The module `stackless`: its names, computed attributes, functions that tell of the state, and argument errors."""

from __future__ import annotations

import builtins
import os
import pickle
import re
import subprocess
import sys
import threading
import types
from typing import TYPE_CHECKING

import pytest
import stackless

if TYPE_CHECKING:
    from collections.abc import Callable

STAR = {
    "atomic", "channel", "enable_softswitch", "get_channel_callback", "get_schedule_callback", "get_thread_info",
    "getcurrent", "getcurrentid", "getdebug", "getmain", "getruncount", "getthreads", "getuncollectables",
    "pickle_with_tracing_state", "run", "schedule", "schedule_remove", "set_channel_callback", "set_error_handler",
    "set_schedule_callback", "switch_trap", "tasklet", "stackless",
}  # fmt: skip

FLAG_NAMES = [
    "PICKLEFLAGS_PRESERVE_TRACING_STATE",
    "PICKLEFLAGS_PRESERVE_AG_FINALIZER",
    "PICKLEFLAGS_RESET_AG_FINALIZER",
    "PICKLEFLAGS_PICKLE_CONTEXT",
]


def nothing() -> None:
    """Do nothing."""


# ---- names -----------------------------------------------------------------------------------------------------------


def test_star_import_gives_the_names_of_stackless() -> None:
    names: dict[str, object] = {}
    exec("from stackless import *", names)
    assert set(names) - {"__builtins__"} == STAR
    assert set(stackless.__all__) == STAR


def test_names_outside_all_are_there() -> None:
    assert {"bomb", "pickle_flags", "pickle_flags_default", "_tasklet_get_unpicklable_state"} <= set(dir(stackless))
    assert [getattr(stackless, name) for name in FLAG_NAMES] == [1, 2, 4, 8]


def test_module_has_itself_as_attribute() -> None:
    assert stackless.stackless is stackless
    assert sys.modules["stackless"] is stackless


def test_module_is_of_a_subclass_of_the_module_type() -> None:
    assert isinstance(stackless, types.ModuleType)
    assert type(stackless) is not types.ModuleType


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_module_pickles_as_itself(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(stackless, protocol)) is stackless
    assert stackless.__reduce__() == "stackless"


def test_tasklet_exit_is_a_builtin_and_no_name_of_the_module() -> None:
    exit_class = builtins.TaskletExit  # type: ignore[attr-defined]
    assert issubclass(exit_class, SystemExit)
    assert exit_class().code is None
    assert "TaskletExit" not in dir(stackless)


def test_types_are_those_of_lissom() -> None:
    import lissom

    assert stackless.tasklet is lissom.tasklet
    assert stackless.channel is lissom.channel
    assert stackless.run is lissom.run


def test_import_works_in_an_isolated_interpreter() -> None:
    # -E -s without the folder of the sources: what is installed must do.
    source = "import stackless; print(stackless.main is stackless.current, TaskletExit.__mro__[1].__name__)"
    done = subprocess.run([sys.executable, "-E", "-s", "-c", source], capture_output=True, text=True, check=False)
    if "No module named 'stackless'" in done.stderr and "PYTHONPATH" in os.environ:
        pytest.skip("not installed: the sources are tried through PYTHONPATH")
    assert (done.stdout, done.stderr) == ("True SystemExit\n", "")


# ---- computed attributes ---------------------------------------------------------------------------------------------


def test_current_and_main_follow_the_running_tasklet() -> None:
    seen: list[tuple[object, object, object, object]] = []

    def look() -> None:
        seen.append((stackless.current, stackless.getcurrent(), stackless.main, stackless.getmain()))

    task = stackless.tasklet(look)()
    task.run()
    main = stackless.getmain()
    assert seen == [(task, task, main, main)]
    assert stackless.current is stackless.main is main


def test_runcount_counts_the_caller_and_is_per_thread() -> None:
    counts: list[int] = []

    def look() -> None:
        counts.extend((stackless.runcount, stackless.getruncount()))

    assert stackless.runcount == stackless.getruncount() == 1
    task = stackless.tasklet(look)()
    assert stackless.runcount == stackless.getruncount() == 2
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    task.run()
    assert counts == [1, 1, 2, 2]
    assert stackless.runcount == 1


def test_runcount_does_not_count_who_waits_in_run() -> None:
    counts: list[int] = []
    stackless.tasklet(lambda: counts.append(stackless.runcount))()
    stackless.run()
    assert counts == [1]


def test_threads_lists_all_threads_the_main_one_first() -> None:
    release, started = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (started.set(), release.wait()))
    thread.start()
    started.wait()
    try:
        assert stackless.threads == stackless.getthreads()
        assert stackless.threads[0] == threading.main_thread().ident
        assert set(stackless.threads) == set(sys._current_frames())
    finally:
        release.set()
        thread.join()


def test_debug_is_a_bool_and_uncollectables_a_list() -> None:
    assert stackless.debug is stackless.getdebug()
    assert isinstance(stackless.debug, bool)
    assert type(stackless.uncollectables) is type(stackless.getuncollectables()) is list


def test_uncollectables_lists_tasklets_with_a_machine_stack() -> None:
    task = stackless.tasklet(stackless.schedule_remove)()
    stackless.run()
    assert task in stackless.uncollectables
    task.kill()
    assert task not in stackless.uncollectables


@pytest.mark.parametrize("name", ["current", "main", "runcount", "threads", "debug", "uncollectables"])
def test_computed_attributes_cannot_be_set(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(stackless, name, None)


def test_pickle_with_tracing_state_sets_the_flag_of_the_thread_and_of_new_threads() -> None:
    flags: list[int] = []
    assert stackless.pickle_with_tracing_state is False
    stackless.pickle_with_tracing_state = 5
    try:
        assert stackless.pickle_with_tracing_state is True
        assert stackless.pickle_flags() == stackless.pickle_flags_default() == 1
        thread = threading.Thread(target=lambda: flags.append(stackless.pickle_flags()))
        thread.start()
        thread.join()
        assert flags == [1]
    finally:
        stackless.pickle_with_tracing_state = False
    assert stackless.pickle_flags() == stackless.pickle_flags_default() == 0


# ---- functions that tell of the state --------------------------------------------------------------------------------


def test_getcurrentid_is_the_thread_id_for_main_and_differs_between_tasklets() -> None:
    ids: list[int] = []

    def look() -> None:
        ids.append(stackless.getcurrentid())
        stackless.schedule()
        ids.append(stackless.getcurrentid())

    tasks = [stackless.tasklet(look)() for _ in range(2)]
    stackless.run()
    assert stackless.getcurrentid() == threading.get_ident()
    assert ids[:2] == ids[2:]
    assert len({*ids, stackless.getcurrentid()}) == 3
    del tasks


def test_get_thread_info_gives_main_current_and_runcount() -> None:
    seen: list[tuple[object, ...]] = []
    task = stackless.tasklet(lambda: seen.append(stackless.get_thread_info(threading.get_ident())))()
    task.run()
    assert seen == [(stackless.main, task, 2)]
    assert stackless.get_thread_info() == stackless.get_thread_info(-1) == (stackless.main, stackless.main, 1)


def test_get_thread_info_of_another_thread() -> None:
    release, started = threading.Event(), threading.Event()
    mains: list[stackless.tasklet] = []

    def thread_function() -> None:
        mains.append(stackless.getmain())
        started.set()
        release.wait()

    thread = threading.Thread(target=thread_function)
    thread.start()
    started.wait()
    try:
        assert stackless.get_thread_info(thread.ident) == (mains[0], mains[0], 1)
    finally:
        release.set()
        thread.join()


def test_get_thread_info_of_an_unknown_thread_raises() -> None:
    with pytest.raises(RuntimeError, match=r"^Thread id not found$"):
        stackless.get_thread_info(1)


def test_get_thread_info_flags_append_serials_and_watchdogs() -> None:
    serials = len(stackless.get_thread_info(-1, 1 << 30))
    assert serials > 3
    assert stackless.get_thread_info(-1, 1 << 31)[3:] in ((None,), ([None],))
    assert len(stackless.get_thread_info(-1, 1 << 30 | 1 << 31)) == serials + 1


def test_enable_softswitch_returns_the_old_value_and_none_only_asks() -> None:
    old = stackless.enable_softswitch(None)
    assert isinstance(old, bool)
    try:
        assert stackless.enable_softswitch(0) is old
        assert stackless.enable_softswitch(None) is False
        assert stackless.enable_softswitch([1]) is False
        assert stackless.enable_softswitch(None) is True
    finally:
        stackless.enable_softswitch(old)


@pytest.mark.parametrize("function", [stackless.pickle_flags, stackless.pickle_flags_default])
def test_pickle_flags_are_changed_under_the_mask(function: Callable[..., int]) -> None:
    assert function() == 0
    try:
        assert function(15) == 0
        assert function(0, 5) == 15
        assert function(mask=-1) == 10
        assert function(-1, 15) == 10
        assert function(16 | 1, 1) == 10
        assert function() == 11
    finally:
        function(0)


@pytest.mark.parametrize("function", [stackless.pickle_flags, stackless.pickle_flags_default])
@pytest.mark.parametrize("arguments", [(16,), (-2,), (31, 16)])
def test_pickle_flags_refuse_undefined_bits(function: Callable[..., int], arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^you must not set an undefined pickle-flag$"):
        function(*arguments)
    assert function() == 0


def test_pickle_flags_take_the_keywords_of_stackless() -> None:
    assert stackless.pickle_flags(new_flags=-1, mask=-1) == 0
    assert stackless.pickle_flags_default(new_default=-1, mask=-1) == 0


# ---- argument errors -------------------------------------------------------------------------------------------------

NO_ARGUMENTS = [
    "getcurrent", "getmain", "getruncount", "getcurrentid", "getdebug", "getuncollectables", "getthreads",
    "get_channel_callback", "get_schedule_callback",
]  # fmt: skip
ONE_ARGUMENT = ["set_channel_callback", "set_schedule_callback", "enable_softswitch"]
TOO_MANY = [
    ("schedule", (1, 2), r"schedule\(\) takes at most 1 argument \(2 given\)"),
    ("schedule_remove", (1, 2), r"schedule_remove\(\) takes at most 1 argument \(2 given\)"),
    ("run", (0,) * 6, r"run(_watchdog)?\(\) takes at most 5 arguments \(6 given\)"),
    ("set_error_handler", (None, None), r"set_error_handler\(\) takes at most 1 argument \(2 given\)"),
    ("switch_trap", (0, 0), r"(function|switch_trap\(\)) takes at most 1 argument \(2 given\)"),
    ("get_thread_info", (-1, 0, 0), r"get_thread_info\(\) takes at most 2 arguments \(3 given\)"),
    ("pickle_flags", (0, 0, 0), r"pickle_flags\(\) takes at most 2 arguments \(3 given\)"),
    ("pickle_flags_default", (0, 0, 0), r"pickle_flags_default\(\) takes at most 2 arguments \(3 given\)"),
    ("bomb", (1, 2, 3, 4), r"bomb\(\) takes at most 3 arguments \(4 given\)"),
    ("tasklet", (None,) * 4, r"(bind|tasklet)\(\) takes at most 3 arguments \(4 given\)"),
]


@pytest.mark.parametrize("name", NO_ARGUMENTS)
def test_functions_without_arguments_refuse_one(name: str) -> None:
    function = getattr(stackless, name)
    with pytest.raises(TypeError, match=rf"^{name}\(\) takes no arguments \(1 given\)$"):
        function(None)
    with pytest.raises(TypeError, match=rf"^{name}\(\) takes no keyword arguments$"):
        function(x=None)


@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_functions_with_one_argument_refuse_none_and_two(name: str) -> None:
    function = getattr(stackless, name)
    for arguments in [(), (None, None)]:
        text = rf"^{name}\(\) takes exactly one argument \({len(arguments)} given\)$"
        with pytest.raises(TypeError, match=text):
            function(*arguments)
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        function(callable=None)


@pytest.mark.parametrize(("name", "arguments", "text"), TOO_MANY, ids=[name for name, _, _ in TOO_MANY])
def test_too_many_arguments_are_refused(name: str, arguments: tuple[object, ...], text: str) -> None:
    with pytest.raises(TypeError, match=f"^{text}$"):
        getattr(stackless, name)(*arguments)


@pytest.mark.parametrize("name", ["schedule", "schedule_remove", "run", "pickle_flags"])
def test_unknown_keywords_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=re.compile("unexpected keyword argument 'what'|'what' is an invalid keyword")):
        getattr(stackless, name)(what=1)


@pytest.mark.parametrize("name", ["switch_trap", "set_error_handler", "get_thread_info"])
def test_positional_functions_refuse_keywords(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\(\) takes no keyword arguments$"):
        getattr(stackless, name)(change=1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("run", ("1",)), ("run", (1.5,)), ("switch_trap", ("1",)), ("get_thread_info", ("1",)), ("pickle_flags", ("1",))],
)
def test_numbers_must_be_ints(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match="int"):
        getattr(stackless, name)(*arguments)


def test_run_takes_its_arguments_by_position_and_by_name() -> None:
    assert stackless.run(0, False, False, False, False) is None
    keywords = {"timeout": 0, "threadblock": 0, "soft": 0, "ignore_nesting": 0, "totaltimeout": 0}
    assert stackless.run(**keywords) is None


def test_schedule_takes_its_argument_by_name() -> None:
    assert stackless.schedule(retval=3) == 3
    assert stackless.schedule() is stackless.current
