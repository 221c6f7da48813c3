"""``python -m lissom`` against ``python``: the same output, the same errors, the same exit codes."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from conftest import Script

FILES = {
    "where.py": """
        import sys
        print(__name__, sys.argv, sys.path[0], __file__, __spec__, __package__, __loader__.__class__.__name__)
        print(sys.modules["__main__"].__dict__ is globals(), sorted(globals()))
    """,
    "raises.py": """
        def inner():
            raise ValueError("deep")
        try:
            1 / 0
        except ZeroDivisionError as error:
            inner()
    """,
    "syntax.py": "print('never')\nx = = 1\n",
    "indent.py": "if True:\nprint(1)\n",
    "latin.py": "# coding: latin-1\nprint(ascii('é'))\n",
    "exits.py": "import sys\nsys.exit(eval(sys.argv[1]))\n",
    "interrupt.py": "raise KeyboardInterrupt\n",
    "future.py": "def f(x: undefined_name): pass\n",
    "hooked.py": """
        import sys
        def excepthook(kind, value, trace):
            count = 0
            while trace:
                count, trace = count + 1, trace.tb_next
            print("hook", kind.__name__, value, count)
        sys.excepthook = excepthook
        raise LookupError("gone")
    """,
    "badhook.py": """
        import sys
        def excepthook(kind, value, trace):
            raise RuntimeError("in the hook")
        sys.excepthook = excepthook
        raise LookupError("gone")
    """,
    "pickles.py": """
        import pickle
        class Point:
            def __init__(self, x):
                self.x = x
        print(pickle.loads(pickle.dumps(Point(3))).x, Point.__module__)
    """,
    "last.py": """
        import atexit
        atexit.register(lambda: print("at exit", "__file__" in globals()))
        print("done")
    """,
    "reads.py": "import sys\nprint(sys.stdin.read())\n",
    "package/__init__.py": "",
    "package/__main__.py": """
        import sys
        print(__name__, __package__, __spec__.name, sys.argv, sys.path[0])
    """,
    "folder/__main__.py": """
        import helper, sys
        print(__name__, helper.VALUE, sys.argv, sys.path[0], __file__)
    """,
    "folder/helper.py": "VALUE = 7\n",
    "empty/readme.txt": "",
}

# Each is a list of words behind `python` and behind `python -m lissom`; a leading text is the standard input.
SAME = {
    "script": ["where.py", "a", "-b", "--real-threads"],
    "script_with_a_dot": ["./where.py"],
    "script_through_a_link": ["linked.py"],
    "script_compiled": ["compiled.pyc"],
    "script_raises": ["raises.py"],
    "script_syntax_error": ["syntax.py"],
    "script_indentation_error": ["indent.py"],
    "script_coding_cookie": ["latin.py"],
    "script_does_not_inherit_future": ["future.py"],
    "script_missing": ["nowhere.py"],
    "script_unreadable_path": ["where.py/x"],
    "exit_code": ["exits.py", "7"],
    "exit_none": ["exits.py", "None"],
    "exit_text": ["exits.py", "'some text'"],
    "exit_large": ["exits.py", "300"],
    "interrupted_script": ["interrupt.py"],
    "excepthook": ["hooked.py"],
    "excepthook_raises": ["badhook.py"],
    "pickle": ["pickles.py"],
    "file_is_gone_at_exit": ["last.py"],
    "stdin_is_left_to_the_script": ("abc", ["reads.py"]),
    "module": ["-m", "where", "a", "-i"],
    "module_joined": ["-mwhere", "a"],
    "module_package": ["-m", "package", "a"],
    "module_missing": ["-m", "nowhere"],
    "module_package_without_main": ["-m", "json.nowhere"],
    "module_raises": ["-m", "raises"],
    "module_interrupted": ["-m", "interrupt"],
    "module_stdlib": ["-m", "json.tool", "--help"],
    "folder": ["folder", "a"],
    "zip": ["app.zip", "a"],
    "folder_without_main": ["empty"],
    "command": ["-c", "import sys; print(sys.argv, repr(sys.path[0]), sorted(globals()))", "a", "-m"],
    "command_joined": ["-cprint(1)"],
    "command_raises": ["-c", "def f():\n    raise KeyError(1)\nf()"],
    "command_syntax_error": ["-c", "x = = 1"],
    "command_interrupted": ["-c", "raise KeyboardInterrupt"],
    "command_indented": ["-c", "  x = 1\n  print(x)"],
    "stdin": ("import sys; print(sys.argv, repr(sys.path[0]), __file__, sorted(globals()))", []),
    "stdin_dash": ("import sys; print(sys.argv)", ["-", "a"]),
    "stdin_raises": ("def f():\n    raise KeyError(1)\nf()\n", []),
    "stdin_empty": ("", []),
    "prompt_after_script": (
        "x = 5\nprint(x, 'inner' in globals(), '__file__' in globals())\n1/0\n",
        ["-i", "where.py"],
    ),
    "prompt_after_error": ("import sys; print(sys.last_value)\n", ["-i", "raises.py"]),
    "prompt_after_exit": ("print('still here')\n", ["-i", "exits.py", "3"]),
    "prompt_after_command": ("x + 1\n", ["-i", "-c", "x = 2"]),
    "prompt_letters_joined": ("x + 1\n", ["-ic", "x = 2"]),
    "prompt_after_module": ("len(__name__)\n", ["-i", "-m", "where"]),
    "prompt_alone": ("2 * 21\nimport sys; sys.argv, sys.path[0]\n", ["-i"]),
    "prompt_exit_code": ("import sys\nsys.exit(5)\n", ["-i", "-c", "pass"]),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs that both commands run."""
    import py_compile

    folder = tmp_path_factory.mktemp("programs")
    for name, source in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(textwrap.dedent(source).encode("latin-1"))
    (folder / "links").mkdir()
    (folder / "links" / "real.py").write_text((folder / "where.py").read_text())
    (folder / "linked.py").symlink_to("links/real.py")
    py_compile.compile(str(folder / "where.py"), str(folder / "compiled.pyc"))
    with zipfile.ZipFile(folder / "app.zip", "w") as archive:
        archive.write(folder / "folder" / "__main__.py", "__main__.py")
        archive.write(folder / "folder" / "helper.py", "helper.py")
    return folder


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    """Return what a user sees of a run, without the addresses, which no two runs share."""
    return done.returncode, *(re.sub(r"0x[0-9a-f]+", "0x", text) for text in (done.stdout, done.stderr))


@pytest.mark.parametrize("flags", [[], ["-P"], ["-I"]], ids=["plain", "safe_path", "isolated"])
@pytest.mark.parametrize("case", SAME)
def test_behaves_as_python(script: Script, files: Path, case: str, flags: list[str]) -> None:
    words = SAME[case]
    stdin, words = words if isinstance(words, tuple) else ("", words)
    expected = outcome(script.python(*flags, *words, stdin=stdin, cwd=files))
    assert outcome(script.python(*flags, "-m", "lissom", *words, stdin=stdin, cwd=files)) == expected


def test_prompt_asked_of_the_interpreter_itself(script: Script, files: Path) -> None:
    expected = outcome(script.python("-i", "raises.py", stdin="print(__name__)\n", cwd=files))
    assert outcome(script.python("-i", "-m", "lissom", "raises.py", stdin="print(__name__)\n", cwd=files)) == expected


def test_program_sees_hooks_and_is_the_main_module(script: Script) -> None:
    done = script("import __main__, lissom; print(lissom.is_hooked(), __main__.__name__)", hooked=True)
    assert done.stdout == "True __main__\n"


def test_threading_is_not_imported_before_the_hooks(script: Script) -> None:
    done = script("import sys; print('threading' in sys.modules)", hooked=True, dev=False)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("words", [["--nothing"], ["-z"], ["-c"], ["-m"]])
def test_wrong_options_exit_with_2_and_the_usage(script: Script, words: list[str]) -> None:
    done = script.python("-m", "lissom", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("lissom: ")
    assert "usage: python -m lissom" in done.stderr


def test_help_and_version_exit_with_0(script: Script) -> None:
    assert script.python("-m", "lissom", "--help").stdout.startswith("usage: ")
    assert re.fullmatch(r"lissom \S+ \(CPython 3\.\d+\.\d+\)\n", script.python("-m", "lissom", "-V").stdout)


def test_native_module_that_refuses_to_load_is_one_line_and_exit_code_2(script: Script, tmp_path: Path) -> None:
    (tmp_path / "refusing.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'lissom._core':\n"
        "            raise ImportError('kernel 2.6 is too old,\\n 4.5 or newer is supported')\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    command = "import refusing, runpy, sys; sys.argv[0] = '-m'; sys.orig_argv[1:] = ['-m', 'lissom']; import lissom"
    done = script.python("-c", command)
    assert (done.returncode, done.stderr) == (2, "lissom: kernel 2.6 is too old, 4.5 or newer is supported\n")
    done = script.python("-c", "import refusing, lissom")
    assert done.returncode == 1
    assert "ImportError: kernel 2.6" in done.stderr


def wait_until_asleep(pid: int) -> None:
    """Return when the process sleeps in the kernel: what it printed last lies behind it (proc_pid_stat(5))."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.001)


def test_sigint_ends_a_waiting_program_as_it_ends_python(script: Script, tmp_path: Path) -> None:
    path = tmp_path / "waits.py"
    path.write_text("import time\nprint('ready', flush=True)\ntime.sleep(30)\n")
    ends = []
    for command in ([], ["-m", "lissom"]):
        process = subprocess.Popen(
            [sys.executable, *command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            wait_until_asleep(process.pid)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        ends.append((process.returncode, errors))
    assert ends[0] == ends[1]
    assert ends[0][0] == -signal.SIGINT


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, words: list[str], cwd: Path, **variables: str) -> None:
        self._master, slave = pty.openpty()
        env = os.environ | {"TERM": "dumb", "PYTHON_COLORS": "0", "PYTHON_HISTORY": str(cwd / "history")} | variables
        self.process = subprocess.Popen(
            [sys.executable, *words], stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=env, start_new_session=True
        )
        os.close(slave)
        self.text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def wait_for(self, pattern: str, seconds: float = 20.0) -> str:
        """Read until `pattern` is found behind what was found before; returns the text up to its end."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.text, re.DOTALL)):
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"no {pattern!r} within {seconds} s in {self.text!r}")
            try:
                self.text += os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # EIO: the other side is closed (pty(7))
                pytest.fail(f"ended without {pattern!r}: {self.text!r}")
        found, self.text = self.text[: match.end()], self.text[match.end() :]
        return found

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())


@pytest.mark.parametrize("basic", ["", "1"], ids=["newest_prompt", "basic_prompt"])
@pytest.mark.parametrize("words", [["-i"], [], ["-i", "script.py"], ["-i", "-c", "start = 40"]])
def test_prompt_on_a_terminal(tmp_path: Path, words: list[str], basic: str) -> None:
    (tmp_path / "script.py").write_text("start = 40\n")
    (tmp_path / "startup.py").write_text("start = 40\n")
    startup = str(tmp_path / "startup.py")
    with Terminal(["-m", "lissom", *words], tmp_path, PYTHONSTARTUP=startup, PYTHON_BASIC_REPL=basic) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("print('answer', start + 2)\r")
        terminal.wait_for(r"answer 42.*>>> ")
        terminal.type("import lissom; print('hooks', lissom.is_hooked(), __name__)\r")
        terminal.wait_for(r"hooks True __main__.*>>> ")
        terminal.type("raise SystemExit(4)\r")
        assert terminal.process.wait(20) == 4


@pytest.mark.parametrize("words", [["-m", "lissom", "script.py"], ["-m", "lissom", "raises.py"]])
def test_pythoninspect_leads_to_the_prompt(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "script.py").write_text("start = 40\n")
    (tmp_path / "raises.py").write_text("start = 40\nraise SystemExit(3)\n")
    with Terminal(words, tmp_path, PYTHONINSPECT="1", PYTHON_BASIC_REPL="1") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("print('answer', start + 2)\r")
        terminal.wait_for(r"answer 42.*>>> ")
        terminal.type("\x04")
        assert terminal.process.wait(20) == 0


def test_program_may_ask_for_the_prompt_itself(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import os\nos.environ['PYTHONINSPECT'] = '1'\nstart = 40\n")
    with Terminal(["-m", "lissom", "script.py"], tmp_path, PYTHON_BASIC_REPL="1") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("print('answer', start + 2)\r")
        terminal.wait_for(r"answer 42.*>>> ")
