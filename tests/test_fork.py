"""`fork` in a tasklet: the child has the calling tasklet only, as a process has only the thread that forked."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script

PRELUDE = """
import lissom, os, socket, sys, threading, time, warnings
warnings.simplefilter("ignore")
def in_child(function):
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = function() or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture(params=["main", "tasklet"])
def fork(script: Script, request: pytest.FixtureRequest):
    """Run source that defines `parent()`, in the main tasklet or in another one."""

    def run(source: str, **options: object) -> str:
        call = "parent()" if request.param == "main" else "lissom.join(lissom.spawn(parent))"
        return script(f"{PRELUDE}\n{source}\n{call}\n", hooked=True, **options).stdout

    return run


def test_child_runs_python_and_its_exit_code_arrives(fork) -> None:
    assert fork("def parent(): print(in_child(lambda: 7))") == "7\n"


def test_child_can_wait_for_time_and_input(fork) -> None:
    source = """
def child():
    left, right = socket.socketpair()
    threading.Timer(0.01, right.send, [b"from a thread of the child"]).start()
    time.sleep(0.001)
    print(left.recv(100))
def parent():
    in_child(child)
"""
    assert fork(source) == "b'from a thread of the child'\n"


def test_child_can_spawn_and_join(fork) -> None:
    source = """
def parent():
    in_child(lambda: print(lissom.join(lissom.spawn(lambda: (lissom.sleep(0.001), "spawned")[1]))))
"""
    assert fork(source) == "spawned\n"


def test_other_tasklets_do_not_run_in_the_child(fork) -> None:
    source = """
pids = set()
def other():
    while True:
        pids.add(os.getpid())
        time.sleep(0)
def child():
    time.sleep(0.01)
    lissom.schedule()
    print(os.getpid() in pids)
def parent():
    lissom.spawn(other)
    lissom.schedule()
    in_child(child)
    print(os.getpid() in pids)
"""
    assert fork(source) == "False\nTrue\n"


def test_child_is_the_main_thread_with_no_others(fork) -> None:
    source = """
def child():
    print(threading.active_count(), threading.current_thread() is threading.main_thread())
def parent():
    threading.Thread(target=time.sleep, args=[0.5], daemon=True).start()
    in_child(child)
    print(threading.active_count() >= 2)
"""
    assert fork(source) == "1 True\nTrue\n"


def test_locks_of_other_tasklets_stay_locked_and_own_ones_work(fork) -> None:
    source = """
held, mine = threading.Lock(), threading.RLock()
def holder():
    with held:
        time.sleep(0.2)
def child():
    print(held.acquire(timeout=0.01), mine.acquire(blocking=False), mine.release(), threading.Lock().acquire())
def parent():
    threading.Thread(target=holder, daemon=True).start()
    with mine:
        in_child(child)
"""
    assert fork(source) == "False True None True\n"


def test_import_lock_is_a_tasklets_own_and_fork_waits_for_it(fork) -> None:
    source = """
import _imp
order = []
def hold():
    _imp.acquire_lock(); _imp.acquire_lock()
    order.append("held")
    time.sleep(0.01)
    _imp.release_lock()
    time.sleep(0.01)
    order.append("given back")
    _imp.release_lock()
def wait():
    _imp.acquire_lock()
    order.append("taken over")
    time.sleep(0.01)
    _imp.release_lock()
def child():
    assert not _imp.lock_held()
    import colorsys
    return order.count("held") == order.count("given back")
def parent():
    tasklets = [lissom.spawn(hold), lissom.spawn(_imp.acquire_lock), lissom.spawn(wait)]
    lissom.schedule()
    # Who dies waiting for the lock leaves it alone.
    tasklets.pop(1).kill()
    print(in_child(child))
    for tasklet in tasklets:
        lissom.join(tasklet)
    print(*order, _imp.lock_held())
    try:
        _imp.release_lock()
    except RuntimeError as error:
        print(error)
"""
    assert fork(source) == "1\nheld given back taken over False\nnot holding the import lock\n"


def test_parent_is_not_disturbed_by_the_childs_waits(fork) -> None:
    source = """
def child():
    left, right = socket.socketpair()
    for _ in range(20):
        lissom.spawn(right.send, b"x")
        left.recv(1)
    time.sleep(0.01)
def parent():
    left, right = socket.socketpair()
    reader = lissom.spawn(left.recv, 1)
    lissom.schedule()
    in_child(child)
    right.send(b"y")
    print(lissom.join(reader))
"""
    assert fork(source) == "b'y'\n"


def test_child_ends_by_an_exception_with_its_traceback(script: Script) -> None:
    source = (
        PRELUDE
        + """
def parent():
    if os.fork() == 0:
        raise LookupError("in the child")
    print(os.waitstatus_to_exitcode(os.wait()[1]))
parent()
"""
    )
    done = script(source, hooked=True)
    assert done.stdout == "1\n"
    assert done.stderr.count("LookupError: in the child") == 1


def test_child_forked_in_a_thread_ends_with_it(script: Script) -> None:
    """As on real threads: a thread's function that returns ends the process that it alone is."""
    source = (
        PRELUDE
        + """
def work():
    pid = os.fork()
    if pid == 0:
        print("child", flush=True)
        return
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print("end")
"""
    )
    assert script(source, hooked=True).stdout == script(source).stdout == "child\n0\nend\n"


def test_sys_exit_in_a_child_forked_in_a_tasklet(script: Script) -> None:
    source = (
        PRELUDE
        + """
def work():
    pid = os.fork()
    if pid == 0:
        sys.exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
lissom.join(lissom.spawn(work))
"""
    )
    assert script(source, hooked=True).stdout == "4\n"


def test_offload_works_in_the_child(fork) -> None:
    source = """
def parent():
    lissom.offload(int)
    in_child(lambda: print(lissom.offload(sum, [1, 2])))
    print(lissom.offload(sum, [3, 4]))
"""
    assert fork(source) == "3\n7\n"


def test_signals_reach_the_child(fork) -> None:
    source = """
import signal
def child():
    signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
    lissom.spawn(os.kill, os.getpid(), signal.SIGUSR1)
    time.sleep(0.01)
def parent():
    in_child(child)
"""
    assert fork(source) == "handled\n"


def test_grandchildren(fork) -> None:
    source = """
def parent():
    print(in_child(lambda: in_child(lambda: in_child(lambda: (time.sleep(0.001), 5)[1]))))
"""
    assert fork(source) == "5\n"


SERVER = """
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"%d %s" % (os.getpid() != parent_pid, line))
class Server(socketserver.ForkingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
parent_pid = os.getpid()
def client(number):
    with socket.create_connection(server.server_address) as sock:
        sock.sendall(b"%d\\n" % number)
        sock.shutdown(socket.SHUT_WR)
        return sock.makefile().read()
with Server(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    clients = [lissom.spawn(client, number) for number in range(10)]
    print([lissom.join(tasklet) for tasklet in clients] == [f"1 {number}\\n" for number in range(10)])
    server.shutdown()
"""


def test_forking_server_works(script: Script) -> None:
    done = script(PRELUDE + SERVER, hooked=True, dev=False)
    assert done.stdout == "True\n"
    assert "Traceback" not in done.stderr


def test_subprocess_with_preexec_function(script: Script) -> None:
    source = (
        PRELUDE
        + """
import subprocess
def run():
    code = "import os; print(os.getpgid(0) == os.getpid())"
    return subprocess.run([sys.executable, "-c", code], preexec_fn=os.setpgrp, capture_output=True, text=True).stdout
print(lissom.join(lissom.spawn(run)), end="")
"""
    )
    assert script(source, hooked=True).stdout == "True\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_pool(script: Script, method: str) -> None:
    source = f"""
import multiprocessing, warnings
def double(number):
    return number * 2
if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        print(pool.map(double, range(5)))
        pool.close()
        pool.join()
"""
    if sys.version_info >= (3, 14) and method == "forkserver":
        source = source.replace("print(", "print(", 1)
    assert script(source, hooked=True, dev=False).stdout == "[0, 2, 4, 6, 8]\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_queues_of_child_processes_are_emptied_before_these_end(script: Script, method: str) -> None:
    source = f"""
import lissom
lissom.hook(threads=True)
import multiprocessing, warnings
def work(queue, number):
    queue.put(number)
if __name__ == "__main__":
    warnings.simplefilter("ignore")
    context = multiprocessing.get_context("{method}")
    queue = context.Queue()
    processes = [context.Process(target=work, args=(queue, number)) for number in range(3)]
    for process in processes: process.start()
    print(sorted(queue.get(timeout=20) for _ in processes))
    for process in processes: process.join()
"""
    assert script(source, dev=False).stdout == "[0, 1, 2]\n"


def test_recursive_lock_of_processes_belongs_to_a_tasklet(script: Script) -> None:
    source = """
import lissom, multiprocessing
lock = multiprocessing.get_context("spawn").RLock()
before = multiprocessing.get_context("spawn").RLock()
before.acquire()
lissom.hook()
inside = []
def work(name):
    with lock, lock:
        inside.append(name)
        lissom.sleep(0.005)
        assert lock._semlock._is_mine()
        inside.append(name)
for tasklet in [lissom.spawn(work, name) for name in "abc"]:
    lissom.join(tasklet)
print(*inside)

def refused():
    try:
        lock.release()
    except AssertionError as error:
        return str(error)
def by_another(function, *args):
    return lissom.join(lissom.spawn(function, *args))
with lock:
    print(by_another(lock.acquire, False), by_another(lock._semlock._is_mine), by_another(refused))
print(lock._semlock._is_mine())

# What was acquired before hooking is the main tasklet's.
print(by_another(before.acquire, False), before.acquire(False))
before.release()
before.release()
print(by_another(before.acquire, False), before.acquire(False))
"""
    assert script(source, dev=False).stdout.splitlines() == [
        "a a b b c c",
        "False False attempt to release recursive lock not owned by thread",
        "False",
        "False True",
        "True False",
    ]
