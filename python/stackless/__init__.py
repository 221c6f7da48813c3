"""The API of Stackless Python 3.8, on an unmodified interpreter: the same objects as in `lissom`, under their old name.

``import stackless`` and ``from stackless import *`` give what they gave there. The attributes ``current``, ``main``,
``runcount``, ``threads``, ``debug``, ``uncollectables`` and ``pickle_with_tracing_state`` are computed at each access;
``TaskletExit`` is a builtin. What differs is in the chapter "Coming from Stackless" of Lissom's documentation.
"""

from __future__ import annotations

import sys as _sys
import types as _types
from typing import TYPE_CHECKING

from lissom._core import (
    _tasklet_get_unpicklable_state as _tasklet_get_unpicklable_state,
)
from lissom._core import (
    atomic,
    channel,
    enable_softswitch,
    get_channel_callback,
    get_schedule_callback,
    get_thread_info,
    getcurrent,
    getcurrentid,
    getdebug,
    getmain,
    getruncount,
    getthreads,
    getuncollectables,
    pickle_flags,
    pickle_flags_default,
    run,
    schedule,
    schedule_remove,
    set_channel_callback,
    set_error_handler,
    set_schedule_callback,
    switch_trap,
    tasklet,
)
from lissom._core import bomb as bomb

if TYPE_CHECKING:
    current: tasklet
    main: tasklet
    runcount: int
    threads: list[int]
    debug: bool
    uncollectables: list[tasklet]
    pickle_with_tracing_state: bool

PICKLEFLAGS_PRESERVE_TRACING_STATE = 1
PICKLEFLAGS_PRESERVE_AG_FINALIZER = 2
PICKLEFLAGS_RESET_AG_FINALIZER = 4
PICKLEFLAGS_PICKLE_CONTEXT = 8


class _Module(_types.ModuleType):
    """The class of this module: its attributes that are computed."""

    @property
    def current(self) -> tasklet:
        return getcurrent()

    @property
    def main(self) -> tasklet:
        return getmain()

    @property
    def runcount(self) -> int:
        return getruncount()

    @property
    def threads(self) -> list[int]:
        return getthreads()

    @property
    def debug(self) -> bool:
        return getdebug()

    @property
    def uncollectables(self) -> list[tasklet]:
        return getuncollectables()

    @property
    def pickle_with_tracing_state(self) -> bool:
        return bool(pickle_flags() & PICKLEFLAGS_PRESERVE_TRACING_STATE)

    @pickle_with_tracing_state.setter
    def pickle_with_tracing_state(self, value: object) -> None:
        flag = PICKLEFLAGS_PRESERVE_TRACING_STATE
        pickle_flags(flag if value else 0, flag)
        pickle_flags_default(flag if value else 0, flag)

    def __reduce__(self) -> str:
        return "stackless"


stackless = _sys.modules[__name__]
stackless.__class__ = _Module

__all__ = [  # noqa: RUF022 - the order of Stackless
    "atomic",
    "channel",
    "enable_softswitch",
    "get_channel_callback",
    "get_schedule_callback",
    "get_thread_info",
    "getcurrent",
    "getcurrentid",
    "getdebug",
    "getmain",
    "getruncount",
    "getthreads",
    "getuncollectables",
    "pickle_with_tracing_state",
    "run",
    "schedule",
    "schedule_remove",
    "set_channel_callback",
    "set_error_handler",
    "set_schedule_callback",
    "switch_trap",
    "tasklet",
    "stackless",
]
