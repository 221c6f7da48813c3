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
`offload`. Hooks: `hook`, `unhook`, `is_hooked`. Errors: `excepthook`.
"""

try:
    from lissom import _core as _core
except ImportError as _error:
    from lissom import _cli

    _cli.refuse_command(_error)
    raise

from lissom._core import (
    TaskletExit,
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
    sleep,
    spawn,
    tasklet,
    unhook,
)
from lissom._errors import excepthook
from lissom._timeout import timeout

__version__ = "0.1.0"

__all__ = [
    "TaskletExit",
    "channel",
    "excepthook",
    "getcurrent",
    "getmain",
    "getruncount",
    "hook",
    "is_hooked",
    "join",
    "offload",
    "run",
    "schedule",
    "schedule_remove",
    "sleep",
    "spawn",
    "tasklet",
    "timeout",
    "unhook",
]
