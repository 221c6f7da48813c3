"""Make one run of one case with one peer, in a fresh process, and return its figures."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import loadtool

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from demo.server import Server, ServerError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cases import Case

NOT_INSTALLED = 3
MICRO_TIMEOUT = 120.0
PAYLOAD = 1024

Figures = dict[str, Any]


class NotInstalledError(Exception):
    """The peer's package is missing; the text names it."""


class FailedError(Exception):
    """The run went wrong; the text says how."""


@dataclass(frozen=True)
class Runner:
    """Where the tools are, and for how long to measure."""

    load: Path
    native_echo: Path
    seconds: float
    server_cpu: int | None
    client_cpu: int | None

    def run(self, case: Case, peer: str) -> Figures:
        """Measure ``peer`` in ``case``.

        :raises NotInstalledError: when its package is missing.
        :raises FailedError: when the run went wrong.
        """
        return {"micro": self._micro, "echo": self._echo, "http": self._http}[case.group](case, peer)

    def _micro(self, case: Case, peer: str) -> Figures:
        script = HERE / "micro" / f"{case.script}.py"
        options = ["--size", str(case.size_for(peer)), "--seconds", str(self.seconds)]
        with self._started([sys.executable, str(script), peer, *options]) as (process, said):
            try:
                output, _ = process.communicate(timeout=MICRO_TIMEOUT)
            except subprocess.TimeoutExpired as error:
                raise FailedError(f"no result after {MICRO_TIMEOUT:.0f} s") from error
            check(process.returncode, said)
        figures: Figures = json.loads(output)
        return figures

    def _echo(self, case: Case, peer: str) -> Figures:
        python = [sys.executable, str(HERE / "echo_server.py"), peer]
        command = [str(self.native_echo)] if peer == "native" else python
        with self._started(command) as (process, said):
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                check(process.wait(), said)
                raise FailedError("the server printed no port")
            # The servers listen with a queue of 4,096; well below it, no handshake is lost.
            arguments = ["--echo", str(PAYLOAD), "--pending", "256"]
            return self._load(int(port), process.pid, case.size, arguments)

    def _http(self, case: Case, peer: str) -> Figures:
        python = sys.executable
        command = {
            "lissom": [python, "-m", "lissom", "-m", "http.server"],
            "threads": [python, "-m", "http.server"],
            "gevent": [python, "-m", "gevent.monkey", "--module", "http.server"],
        }[peer]
        probe = subprocess.run([python, "-c", f"import {peer}"], capture_output=True, check=False)
        if peer != "threads" and probe.returncode:
            raise NotInstalledError(peer)
        try:
            with Server(command, HERE, Path(os.devnull), self.server_cpu) as server:
                # http.server listens with a queue of 5 and answers in two writes: see demo/run.py.
                arguments = ["--path", "/requirements.txt", "--pending", "5", "--quickack"]
                return self._load(server.port, server.pid, case.size, arguments)
        except ServerError as error:
            raise FailedError(str(error)) from error

    def _load(self, port: int, pid: int, connections: int, arguments: list[str]) -> Figures:
        common = [
            *("--port", str(port), "--server-pid", str(pid), "--connections", str(connections)),
            *("--duration", str(self.seconds * 4), "--warmup", str(self.seconds), "--prime"),
            *(() if self.client_cpu is None else ("--cpu", str(self.client_cpu))),
        ]
        try:
            report = loadtool.run(self.load, [*common, *arguments])
        except loadtool.LoadError as error:
            raise FailedError(str(error)) from error
        if report["connections"]["opened"] < connections or not report["requests"]["completed"]:
            raise FailedError(f"{report['connections']['opened']} connections opened, errors: {report['errors']}")
        return {
            "cpu_us": report["server"]["cpu_us_per_request"],
            "kernel_us": report["server"]["kernel_us_per_request"],
            "per_second": report["requests"]["per_second"],
            "p50_us": report["latency_us"]["p50"],
            "p99_us": report["latency_us"]["p99"],
            "memory": report["server"]["memory_per_connection"],
            "errors": report["errors_total"],
        }

    @contextlib.contextmanager
    def _started(self, command: list[str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
        """Start a process and end it at the end; yield it, and the file with what it writes to stderr.

        It is killed: nothing that it would do at its end is measured.
        """
        with tempfile.TemporaryFile("w+") as said:
            pipe, null = subprocess.PIPE, subprocess.DEVNULL
            process = subprocess.Popen(command, stdout=pipe, stderr=said, stdin=null, text=True)
            try:
                if self.server_cpu is not None:
                    os.sched_setaffinity(process.pid, {self.server_cpu})
                yield process, said
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def check(code: int | None, said: IO[str]) -> None:
    """Raise what a process's exit code and the last line that it wrote to stderr mean."""
    said.seek(0)
    last = (said.read().strip().splitlines() or [f"ended with {code}"])[-1]
    if code == NOT_INSTALLED:
        raise NotInstalledError(last.rpartition(":")[2].strip())
    if code:
        raise FailedError(last)
