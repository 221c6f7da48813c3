"""What happens to an exception that leaves a tasklet's function."""

import sys


def excepthook(tasklet, exception):
    """Report an exception that ended a tasklet.

    Called in the dying tasklet for every uncaught exception, unless another tasklet is waiting in
    :func:`lissom.join` for this one, which then gets it instead. ``TaskletExit`` ends a tasklet silently;
    ``SystemExit`` and ``KeyboardInterrupt`` go on in the main tasklet. Assign another function to
    ``lissom.excepthook`` to replace it; an exception of the hook itself is printed together with the original one.

    :param tasklet: the tasklet that ends.
    :param exception: the exception, with its traceback.
    """
    import traceback

    stderr = sys.stderr
    if stderr is None:
        return
    lines = traceback.format_exception(exception)
    stderr.write(f"Exception in tasklet {tasklet!r}:\n" + "".join(lines))
    stderr.flush()
