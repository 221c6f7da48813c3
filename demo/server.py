"""The standard library's HTTP server, unmodified, as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

START_SECONDS = 30.0
STOP_SECONDS = 20.0


class ServerError(Exception):
    """The server did not start; the text is the end of what it wrote."""


class Server:
    """``http.server`` on a free port of 127.0.0.1, as a context manager.

    :param command: what to start, such as ``["python", "-m", "lissom", "-m", "http.server"]``.
    :param folder: the folder it serves.
    :param log: the file for what it writes: one line for each request, and tracebacks.
    :param cpu: the CPU it may use, ``None`` for all.
    """

    def __init__(self, command: list[str], folder: Path, log: Path, cpu: int | None) -> None:
        self.port = free_port()
        self.log = log
        self._cpu = cpu
        options = ["--protocol", "HTTP/1.1", "--bind", "127.0.0.1", str(self.port)]
        self.command = [*command, *options, "--directory", str(folder)]

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            if self._cpu is not None:
                # Before it has threads: those started later inherit it.
                os.sched_setaffinity(self._process.pid, {self._cpu})
            self._wait_until_it_accepts()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def last_error(self) -> str:
        """The last line of the log that names an exception, or the empty string."""
        lines = self.log.read_text(errors="replace").splitlines()
        # The request log has the client's address at the start of the line, tracebacks have none.
        named = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception", "Exit"))]
        return named[-1] if named else ""

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError as error:
                if self._process.poll() is not None:
                    tail = self.log.read_text(errors="replace").strip()[-2000:]
                    raise ServerError(f"{' '.join(self.command)} ended at once:\n{tail}") from error
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.command[0]} does not accept connections: {error}") from error
                time.sleep(0.05)

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
