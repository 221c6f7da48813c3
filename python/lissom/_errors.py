"""What happens to an exception that leaves a tasklet's function."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lissom import tasklet as tasklet_type


def excepthook(tasklet: tasklet_type, exception: BaseException) -> None:
    """Report an exception that ended a tasklet, on ``sys.stderr``, with its full traceback.

    Called in the dying tasklet for every uncaught exception, unless another tasklet is waiting in
    :func:`lissom.join` for this one: that one gets it instead. ``TaskletExit`` ends a tasklet silently;
    ``SystemExit`` and ``KeyboardInterrupt`` go on in the main tasklet; what leaves a ``threading.Thread`` goes to
    ``threading.excepthook`` as always. Assign another function to ``lissom.excepthook`` to replace this one; should
    it fail, both exceptions are printed.

    :param tasklet: the tasklet that ends.
    :param exception: the exception, with its traceback.
    """
    import traceback

    stderr = sys.stderr
    if stderr is None:  # as under pythonw: nowhere to report to
        return
    stderr.write(f"Exception in tasklet {tasklet!r}:\n" + "".join(traceback.format_exception(exception)))
    stderr.flush()
