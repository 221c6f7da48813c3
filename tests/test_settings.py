"""Settings and limits: a wrong one is one line that says what is supported; a limit met is an error and no crash."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script


@pytest.mark.parametrize("value", ["5", "-1", "", "x", "1G", "256KB", "99999999999999999999", "1.5M"])
def test_wrong_stack_size_is_one_line_and_exit_code_2(script: Script, value: str) -> None:
    done = script.python("-m", "lissom", "-c", "print('never')", env={"LISSOM_STACK_SIZE": value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("lissom: ")
    for part in (f"LISSOM_STACK_SIZE={value}", "from ", " to "):
        assert part in done.stderr


def test_wrong_driver_is_one_line_and_exit_code_2(script: Script) -> None:
    done = script.python("-m", "lissom", "-c", "print('never')", env={"LISSOM_DRIVER": "kqueue"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "LISSOM_DRIVER=kqueue" in done.stderr
    assert "choose auto, uring, epoll or poll" in done.stderr


# Has the kernel answer every attempt to open a ring with an error, as sandboxes do (seccomp(2)), then shows the driver.
WITHOUT_RING = """
import ctypes, runpy, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
SET_NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER, IO_URING_SETUP = 38, 22, 2, 425
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ERROR, ALLOW = 0x00050000, 0x7FFF0000
steps = [(LOAD_NUMBER, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP)]
steps += [(RETURN, 0, 0, ERROR | {errno}), (RETURN, 0, 0, ALLOW)]
code = b"".join(struct.pack("HBBI", *step) for step in steps)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


assert libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
assert libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(Program(len(steps), code)), 0, 0) == 0

import lissom.inspect

print(lissom.inspect.driver())
"""


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EPERM, "forbids it"), (errno.ENOSYS, "does not have it"), (errno.ENOMEM, "RLIMIT_MEMLOCK")],
)
def test_refused_ring_is_epoll_and_says_why(script: Script, number: int, reason: str) -> None:
    source = WITHOUT_RING.replace("{errno}", str(number))
    done = script(source, env={"LISSOM_DRIVER": "auto"})
    assert done.stdout.startswith("Driver(name='epoll', note='no io_uring: ")
    assert reason in done.stdout
    named = script(source, env={"LISSOM_DRIVER": "uring"}, check=False)
    assert named.returncode == 1
    assert "OSError: no io_uring: " in named.stderr
    assert reason in named.stderr


def test_driver_is_the_one_that_was_asked_for(script: Script, driver: str) -> None:
    done = script("import lissom.inspect; print(*lissom.inspect.driver())")
    assert done.stdout == f"{driver} None\n"


def test_wrong_setting_is_an_import_error_for_a_program_that_imports_lissom(script: Script) -> None:
    done = script.python("-c", "import lissom", env={"LISSOM_STACK_SIZE": "5"})
    assert done.returncode == 1
    assert "ImportError: LISSOM_STACK_SIZE=5" in done.stderr


@pytest.mark.parametrize("value", ["2M", "2m", "2048K", " 2048k ", str(2 << 20), str((2 << 20) + 1)])
def test_stack_size_is_given_in_bytes_or_with_a_unit(script: Script, value: str) -> None:
    done = script.python("-c", "import lissom; print(lissom.join(lissom.spawn(int)))", env={"LISSOM_STACK_SIZE": value})
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_tasklets_work_on_every_driver(script: Script, driver: str) -> None:
    done = script(
        "import time, threading; t = threading.Thread(target=time.sleep, args=[0.001]); t.start(); t.join()",
        hooked=True,
    )
    assert done.returncode == 0


def test_limit_on_address_space_is_a_memory_error(script: Script) -> None:
    """What was alive goes on, the one that found no stack ends with the error, and later ones find room again."""
    done = script(
        """
        import lissom, resource
        lissom.getmain()
        reserve = [bytearray(64 << 20)]
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
        def report(tasklet, exception):
            reserve.clear()
            print(type(exception).__name__, len(str(exception)) > 10)
        lissom.excepthook = report
        tasklets = []
        while reserve:
            tasklets.append(lissom.spawn(lissom.schedule_remove))
            lissom.schedule()
        assert all(tasklet.paused for tasklet in tasklets[:-1])
        try:
            lissom.join(tasklets.pop())
        except MemoryError:
            print("joined")
        for tasklet in tasklets:
            tasklet.kill()
        print(lissom.join(lissom.spawn(lambda: "works again")))
        """,
        dev=False,
    )
    assert done.stdout == "MemoryError True\njoined\nworks again\n"


def test_limit_on_mappings_is_a_memory_error_that_names_it(script: Script) -> None:
    """The process fills itself with mappings. Where the kernel has guards that are none, there is no limit to meet."""
    if int(Path("/proc/sys/vm/max_map_count").read_text()) > 300_000:
        pytest.skip("vm.max_map_count is too large to be reached")
    done = script(
        """
        import lissom, mmap
        lissom.join(lissom.spawn(int))
        reported, mappings = [], []
        try:
            while True:
                mappings.append(mmap.mmap(-1, 4096))  # shared ones are never merged
        except OSError:
            for mapping in mappings[:20]:
                mapping.close()
        lissom.excepthook = lambda tasklet, exception: reported.append(str(exception))
        tasklets = [lissom.spawn(lissom.schedule_remove) for _ in range(1000)]
        lissom.schedule()
        alive = sum(tasklet.alive for tasklet in tasklets)
        del mappings[:]
        print(alive + len(reported), all("vm.max_map_count" in text for text in reported))
        """,
        dev=False,
    )
    assert done.stdout == "1000 True\n"


def test_limit_on_open_files_when_the_scheduler_is_made_is_an_os_error(script: Script) -> None:
    done = script(
        """
        import os, resource
        import lissom
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        try:
            lissom.getmain()
        except OSError as error:
            print(error.strerror)
        """,
        dev=False,
    )
    assert done.stdout == f"{os.strerror(24)}\n"


def test_many_tasklets_can_wait_at_once(script: Script) -> None:
    """Far more than a process may have mappings (65,530 by default)."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        pytest.skip("address space is limited")
    done = script(
        """
        import lissom
        tasklets = [lissom.spawn(lissom.schedule_remove) for _ in range(100_000)]
        lissom.schedule()
        print(sum(tasklet.paused for tasklet in tasklets))
        """,
        dev=False,
        timeout=60,
    )
    assert done.stdout == "100000\n"
