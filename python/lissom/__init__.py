"""Plain, blocking Python that scales: a call that would block blocks only the calling tasklet.

    import lissom

    lissom.hook()                    # the standard library's blocking calls now switch tasklets

    def greet(name):
        lissom.sleep(1)
        return f"hello {name}"

    tasklets = [lissom.spawn(greet, name) for name in ("Ada", "Grace")]
    print([lissom.join(t) for t in tasklets])     # after one second, not two

Whole programs run this way without a change: ``python -m lissom app.py``.
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
