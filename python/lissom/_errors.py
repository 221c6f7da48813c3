"""What happens to an exception that leaves a tasklet's function."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lissom import tasklet as tasklet_type


def excepthook(tasklet: tasklet_type, exception: BaseException) -> None:
    """Report on ``sys.stderr`` an exception that ended a tasklet, with its full traceback.

    Called in the dying tasklet for every uncaught exception, unless another tasklet is waiting in `lissom.join` for
    this one: that one gets it instead. Switches only if ``sys.stderr`` would block.

    Not called for ``TaskletExit``, which ends a tasklet silently; for ``SystemExit`` and ``KeyboardInterrupt``, which
    go on in the main tasklet; and for what leaves a ``threading.Thread``, which goes to ``threading.excepthook`` as
    always.

    ``tasklet`` is the one that ends, ``exception`` what ended it.

    Returns None. Does nothing if ``sys.stderr`` is None. Should it raise, both exceptions are printed by
    ``sys.unraisablehook``, and the other tasklets go on.

    Assign another function of the same arguments to ``lissom.excepthook`` to replace it.
    """
    import traceback

    stderr = sys.stderr
    if stderr is None:  # as under pythonw: nowhere to report to
        return
    stderr.write(f"Exception in tasklet {tasklet!r}:\n" + "".join(traceback.format_exception(exception)))
    stderr.flush()
