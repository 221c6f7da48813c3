"""Plain, blocking Python that scales: a call that would block blocks only the calling tasklet.

    import time
    import lissom

    lissom.hook()                    # the standard library's blocking calls now switch tasklets

    def greet(name):
        time.sleep(1)
        return f"hello {name}"

    tasklets = [lissom.spawn(greet, name) for name in ("Ada", "Grace")]
    print([lissom.join(t) for t in tasklets])     # after one second, not two

Whole programs run this way without a change: ``python -m lissom app.py``.

Tasklets: `spawn`, `join`, `sleep`, `schedule`, `schedule_remove`, `run`, `getcurrent`, `getmain`, `getruncount`, the
class `tasklet` and the exception `TaskletExit`. Between them: `channel`. Time limits: `timeout`. Real threads:
`offload`. Hooks: `hook`, `unhook`, `is_hooked`. Errors: `excepthook`. Locks and the like, which need no hook:
`Lock`, `RLock`, `Condition`, `Event`, `Semaphore`, `BoundedSemaphore`, `Barrier`, `local`, `Queue`, `LifoQueue`,
`PriorityQueue`,
`QueueChannel`. Several at once: `select`, `wait`, `wait_any`, `wait_all`, `Group`, `Pool`, `Future`,
`TaskletPoolExecutor`.
"""

import os as _os
from typing import TYPE_CHECKING

try:
    from lissom import _core as _core
except ImportError as _error:
    from lissom import _cli

    _cli.refuse_command(_error)
    raise

from lissom._core import (
    Lock,
    TaskletExit,
    atomic,
    bomb,
    channel,
    getcurrent,
    getmain,
    getruncount,
    hook,
    is_hooked,
    join,
    offload,
    run,
    schedule,
    schedule_remove,
    select,
    sleep,
    spawn,
    tasklet,
    unhook,
)
from lissom._errors import excepthook
from lissom._timeout import timeout

if TYPE_CHECKING:
    from lissom._futures import Future as Future
    from lissom._futures import TaskletPoolExecutor as TaskletPoolExecutor
    from lissom._futures import wait as wait
    from lissom._futures import wait_all as wait_all
    from lissom._futures import wait_any as wait_any
    from lissom._local import local as local
    from lissom._pool import Group as Group
    from lissom._pool import Pool as Pool
    from lissom._queue import LifoQueue as LifoQueue
    from lissom._queue import PriorityQueue as PriorityQueue
    from lissom._queue import Queue as Queue
    from lissom._queue import QueueChannel as QueueChannel
    from lissom._sync import Barrier as Barrier
    from lissom._sync import BoundedSemaphore as BoundedSemaphore
    from lissom._sync import Condition as Condition
    from lissom._sync import Event as Event
    from lissom._sync import RLock as RLock
    from lissom._sync import Semaphore as Semaphore

# What is imported at first use: programs that only hook should not pay for it.
_LATER = {
    "_futures": ("Future", "TaskletPoolExecutor", "wait", "wait_all", "wait_any"),
    "_local": ("local",),
    "_pool": ("Group", "Pool"),
    "_queue": ("LifoQueue", "PriorityQueue", "Queue", "QueueChannel"),
    "_sync": ("Barrier", "BoundedSemaphore", "Condition", "Event", "RLock", "Semaphore"),
}


def __getattr__(name: str) -> object:
    """Import what is asked for by the first access to it."""
    from importlib import import_module

    for module, names in _LATER.items():
        if name in names:
            value = getattr(import_module(f"lissom.{module}"), name)
            value.__module__ = "lissom"
            globals()[name] = value
            return value
    raise AttributeError(f"module 'lissom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if any(name in _os.environ for name in ("LISSOM_DUMP_SIGNAL", "LISSOM_BLOCKED_MS", "LISSOM_TOP")):
    from lissom import _cli
    from lissom import inspect as inspect

    try:
        inspect._start_from_environment()
    except ImportError as _error:
        _cli.refuse_command(_error)
        raise

__version__ = "0.1.0"

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Future",
    "Group",
    "LifoQueue",
    "Lock",
    "Pool",
    "PriorityQueue",
    "Queue",
    "QueueChannel",
    "RLock",
    "Semaphore",
    "TaskletExit",
    "TaskletPoolExecutor",
    "atomic",
    "bomb",
    "channel",
    "excepthook",
    "getcurrent",
    "getmain",
    "getruncount",
    "hook",
    "is_hooked",
    "join",
    "local",
    "offload",
    "run",
    "schedule",
    "schedule_remove",
    "select",
    "sleep",
    "spawn",
    "tasklet",
    "timeout",
    "unhook",
    "wait",
    "wait_all",
    "wait_any",
]
