"""The command line: ``python -m lissom [options] script.py [args]``.

What ``python`` does before and after a program is done here again, in the same order: ``sys.argv``, ``sys.path[0]``, a
``__main__`` module that is the one in ``sys.modules``, the prompt behind ``-i``. Two rules keep it true to ``python``:

* An exception leaves through the interpreter's own code, which prints it, sets the exit code and dies of SIGINT where
  that is due. Only the frames of this file are taken out of the traceback on the way (`_leave_by`).
* As little as possible is imported before `lissom.hook` is called; ``threading`` is not.

References: "Command line and environment" in the Python documentation; ``Modules/main.c`` and ``Python/pythonrun.c``.
"""

from __future__ import annotations

import builtins
import os
import sys
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, ModuleType, TracebackType
    from typing import Any, NoReturn

USAGE = """\
usage: python -m lissom [option] ... [-c cmd | -m mod | file | -] [arg] ...
Runs a Python program whose threads are tasklets and whose blocking calls block only the calling tasklet.

options:
  --real-threads  leave threads as they are: only what the program spawns itself is a tasklet
  -c cmd          run the program passed in as a string
  -m mod          run a library module as a program
  -i              read from the prompt after the program, or without one
  -h, --help      show this text and exit
  -V, --version   show the versions and exit
  file            run a program from a script file, a folder or a zip file with a __main__.py
  -               run a program from the standard input (also without any of the above)
  arg ...         passed to the program in sys.argv[1:]

Options of the interpreter itself stand before -m: python -X dev -m lissom file
"""


class Options:
    """What the command line asks for; `kind` is ``c``, ``m``, ``file`` or ``stdin``."""

    def __init__(self) -> None:
        self.threads = True
        self.interactive = False
        self.kind = "stdin"
        self.program = ""
        self.argv: list[str] = [""]


def refuse_command(error: ImportError) -> None:
    """End the process with exit code 2 and `error` in one line if ``python -m lissom`` is being started.

    For ``lissom/__init__.py`` when the native module refuses to load: before ``__main__.py`` runs, nothing else can
    turn the exception into a line. Returns when somebody else imports `lissom`.
    """
    # While runpy locates a module sys.argv[0] is "-m" (documented at sys.argv); the module stood just before the rest.
    if sys.argv[:1] != ["-m"] or len(sys.orig_argv) <= len(sys.argv):
        return
    module = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)]
    if module == "lissom" or (module.startswith("-") and module.endswith("mlissom")):
        _refuse(str(error))


def main() -> None:
    """Run the command line in `sys.argv`; returns when the program ends, or raises what it raised."""
    options = _parse(sys.argv[1:])
    _hook(options.threads)
    module = _fresh_main()
    sys.argv[:] = options.argv
    # `python -i -m lissom`: the interpreter itself goes to the prompt when this returns.
    interactive = options.interactive and not sys.flags.inspect
    try:
        if options.kind == "stdin" and (interactive or sys.flags.interactive or _is_tty()):
            _set_path0("")
            _greet(module)
            interactive = not sys.flags.inspect
        else:
            _RUNNERS[options.kind](options, module)
    except SystemExit as error:
        if not interactive:
            raise
        _print_exception(error)
    except BaseException as error:  # noqa: BLE001 - leaves through the interpreter, or is printed before the prompt
        if not interactive:
            _leave_by(error)
        _print_exception(error)
    if interactive:
        _interact(module)


def _parse(words: Sequence[str]) -> Options:
    """Read the options up to the program; everything behind it is the program's."""
    options = Options()
    for number, word in enumerate(words):
        rest = list(words[number + 1 :])
        if word == "--real-threads":
            options.threads = False
        elif word == "--help":
            _say_and_exit(USAGE)
        elif word == "--version":
            _say_and_exit(_versions())
        elif word == "-":
            options.argv = ["-", *rest]
            return options
        elif word == "--":
            if rest:
                options.kind, options.program, options.argv = "file", rest[0], rest
            return options
        elif word.startswith("--"):
            _usage_error(f"unknown option {word}")
        elif word.startswith("-"):
            if _parse_letters(word[1:], rest, options):
                return options
        else:
            options.kind, options.program, options.argv = "file", word, [word, *rest]
            return options
    return options


def _parse_letters(letters: str, rest: list[str], options: Options) -> bool:
    """Read a word such as ``-i``, ``-ic`` or ``-mmodule``; returns whether it named the program."""
    for number, letter in enumerate(letters):
        if letter == "i":
            options.interactive = True
        elif letter in {"c", "m"}:
            words = [letters[number + 1 :], *rest] if letters[number + 1 :] else rest
            if not words:
                _usage_error(f"argument expected for the -{letter} option")
            options.kind, options.program = letter, words[0]
            options.argv = [f"-{letter}", *words[1:]]
            return True
        elif letter == "h":
            _say_and_exit(USAGE)
        elif letter == "V":
            _say_and_exit(_versions())
        else:
            _usage_error(f"unknown option -{letter}")
    return False


def _versions() -> str:
    from importlib.metadata import version

    release = ".".join(map(str, sys.version_info[:3]))
    return f"lissom {version('lissom')} (CPython {release})\n"


def _say_and_exit(text: str) -> NoReturn:
    sys.stdout.write(text)
    raise SystemExit(0)


def _usage_error(problem: str) -> NoReturn:
    sys.stderr.write(f"lissom: {problem}\n{USAGE.splitlines()[0]}\nTry `python -m lissom --help' for more.\n")
    raise SystemExit(2)


def _refuse(problem: str) -> NoReturn:
    sys.stderr.write(f"lissom: {' '.join(problem.split())}\n")
    raise SystemExit(2)


def _hook(threads: bool) -> None:
    """Make the hooks, or end the process with one line and exit code 2 where that is not supported."""
    try:
        import lissom

        lissom.hook(threads=threads)
    except (ImportError, OSError, RuntimeError) as error:
        _refuse(str(error))


def _fresh_main() -> ModuleType:
    """Put a new ``__main__`` in the place of this command's, with the attributes that ``python`` gives it."""
    module = type(sys)("__main__")
    vars(module).update(__builtins__=builtins, __loader__=BuiltinImporter)
    if sys.version_info < (3, 14):
        vars(module)["__annotations__"] = {}
    sys.modules["__main__"] = module
    return module


def _set_path0(folder: str) -> None:
    """Put `folder` in the place of the current directory, which ``python -m`` has put first, unless told not to."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _run_command(options: Options, module: ModuleType) -> None:
    source = options.program
    if sys.version_info >= (3, 14):
        from textwrap import dedent

        source = dedent(source)
    if sys.version_info >= (3, 13):
        import linecache

        # Tracebacks show the lines of the string.
        lines = source.splitlines(keepends=True)
        linecache.cache["<string>"] = (len(source), None, lines, "<string>")
    _set_path0("")
    _run_code(_compile(source, "<string>"), module)


def _run_module(options: Options, module: ModuleType) -> None:  # noqa: ARG001 - one signature for all runners
    import runpy

    # The very function that `python -m` calls; it fills the module in sys.modules["__main__"] and sets sys.argv[0].
    runpy._run_module_as_main(options.program)  # type: ignore[attr-defined]


def _run_stdin(options: Options, module: ModuleType) -> None:  # noqa: ARG001 - one signature for all runners
    _set_path0("")
    source = sys.stdin.buffer.read() if sys.stdin else b""
    _run_with_file(lambda: _run_code(_compile(source, "<stdin>"), module), module, "<stdin>")


def _run_file(options: Options, module: ModuleType) -> None:
    path = os.path.join(os.getcwd(), options.program)  # noqa: PTH118, PTH109 - as python: joined, not normalised
    if _holds_modules(path):
        import runpy

        # A folder or zip file goes first on the path even with -P, as with python.
        sys.path[:1] = [path] if not sys.flags.safe_path else [path, *sys.path[:1]]
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
        return
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        sys.stderr.write(f"{sys.executable}: can't open file {path!r}: {reason}\n")
        raise SystemExit(2) from None
    _set_path0(os.path.dirname(os.path.realpath(path)))  # noqa: PTH120 - pathlib is not imported before the program
    if path.endswith(".pyc"):
        loader: Any = SourcelessFileLoader("__main__", path)
        run: Callable[[], None] = lambda: _run_code(loader.get_code("__main__"), module)  # noqa: E731
    else:
        loader = SourceFileLoader("__main__", path)
        run = lambda: _run_code(_compile(content, path), module)  # noqa: E731
    vars(module)["__loader__"] = loader
    _run_with_file(run, module, path)


def _holds_modules(path: str) -> bool:
    """Return whether `path` is something that modules can be imported from: a folder, a zip file."""
    for hook in sys.path_hooks:
        try:
            hook(path)
        except ImportError:
            continue
        return True
    return False


def _run_with_file(run: Callable[[], None], module: ModuleType, path: str) -> None:
    """Run with ``__file__`` set; it is gone afterwards, as in ``pyrun_simple_file``."""
    vars(module).update(__file__=path, __cached__=None)
    try:
        run()
    finally:
        for name in ("__file__", "__cached__"):
            vars(module).pop(name, None)


def _compile(source: str | bytes, name: str) -> CodeType:
    # Without dont_inherit the program would inherit this file's __future__ imports.
    code: CodeType = compile(source, name, "exec", dont_inherit=True)
    return code


def _run_code(code: CodeType, module: ModuleType) -> None:
    exec(code, vars(module))


_RUNNERS: dict[str, Callable[[Options, ModuleType], None]] = {
    "c": _run_command,
    "m": _run_module,
    "file": _run_file,
    "stdin": _run_stdin,
}


def _without_own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback below this file: what is left is what ``python`` would show."""
    own = _without_own_frames.__code__.co_filename
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename != own:
        rest = rest.tb_next
    if rest is None:
        return trace
    while rest is not None and rest.tb_frame.f_code.co_filename == own:
        rest = rest.tb_next
    return rest


def _leave_by(error: BaseException) -> NoReturn:
    """Raise `error` out of this command, so that the interpreter prints it and chooses the exit code.

    The interpreter calls `sys.excepthook` once, when all frames are unwound; a hook before the program's own shortens
    the traceback.
    """
    hook = sys.excepthook

    def shorten(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        if value is error:
            trace = _without_own_frames(trace)
            value.__traceback__ = sys.last_traceback = trace
        try:
            hook(kind, value, trace)
        except SystemExit:
            raise
        except BaseException as failure:  # noqa: BLE001 - reported as _PyErr_PrintEx does, without this frame
            failure.__traceback__ = failure.__traceback__ and failure.__traceback__.tb_next
            sys.stderr.write("Error in sys.excepthook:\n")
            sys.__excepthook__(type(failure), failure, failure.__traceback__)
            sys.stderr.write("\nOriginal exception was:\n")
            sys.__excepthook__(kind, value, trace)

    sys.excepthook = shorten
    raise error


def _print_exception(error: BaseException) -> None:
    """Print `error` as ``python`` does before it goes to the prompt, and leave it in ``sys.last_exc``."""
    trace = error.__traceback__ = _without_own_frames(error.__traceback__)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.excepthook(type(error), error, trace)


def _is_tty() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _greet(module: ModuleType) -> None:
    """Print the banner and run the file in ``$PYTHONSTARTUP``: what comes before a prompt without a program."""
    if not sys.flags.quiet:
        hint = 'Type "help", "copyright", "credits" or "license" for more information.'
        sys.stderr.write(f"Python {sys.version} on {sys.platform}\n{hint}\n")
    startup = "" if sys.flags.ignore_environment else os.environ.get("PYTHONSTARTUP", "")
    if not startup:
        return
    sys.audit("cpython.run_startup", startup)
    try:
        with open(startup, "rb") as file:
            source = file.read()
    except OSError as error:
        sys.stderr.write(f"Could not open PYTHONSTARTUP\n{type(error).__name__}: {error}\n")
        return
    try:
        _run_with_file(lambda: _run_code(_compile(source, startup), module), module, startup)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - an error in the startup file does not keep the prompt away
        _print_exception(error)


def _interact(module: ModuleType) -> None:
    """Read from the interpreter's own prompt until the end of the input."""
    if hook := getattr(sys, "__interactivehook__", None):
        sys.audit("cpython.run_interactivehook", hook)
        try:
            hook()
        except Exception as error:  # noqa: BLE001 - printed, as python does
            _print_exception(error)
    basic = not sys.flags.ignore_environment and os.environ.get("PYTHON_BASIC_REPL")
    if sys.version_info >= (3, 13) and _is_tty() and not basic:
        from _pyrepl.main import interactive_console

        interactive_console(mainmodule=module)
        return
    try:
        import ctypes
    except ImportError:
        import code

        code.interact(banner="", local=vars(module), exitmsg="")
        return
    # What `python -i` calls; it works on the C library's stdin whether that is a terminal or not.
    stdin = ctypes.c_void_p.in_dll(ctypes.pythonapi, "stdin")
    ctypes.pythonapi.PyRun_InteractiveLoopFlags(stdin, b"<stdin>", None)
