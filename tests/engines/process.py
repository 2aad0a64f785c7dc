"""One engine as a process: started, killed, suspended, and never left behind.

A command in, a process with a log file out; does not know what the command serves.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tests.engines import reaper

_handed_out: set[int] = set()


def free_port() -> int:
    """A port below the ephemeral range: no client's socket takes it between runs."""
    while True:
        port = random.randrange(20_000, 32_000)
        if port not in _handed_out and is_free(port):
            _handed_out.add(port)
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {timeout_s:g} s")
        time.sleep(0.05)


@functools.cache
def _reaper() -> subprocess.Popen[bytes]:
    """The process that outlives this one and ends what it left."""
    return subprocess.Popen(
        [sys.executable, "-IS", reaper.__file__],
        stdin=subprocess.PIPE,
        bufsize=0,  # a line is one write, whichever thread it comes from
        start_new_session=True,
    )


def _tell_reaper(line: str) -> None:
    to_reaper = _reaper().stdin
    assert to_reaper is not None
    to_reaper.write(line.encode())


class Engine:
    """Keeps its port and its directory over any number of starts.

    Its process leads a group: what harms it harms the children that it started too.
    """

    environ: Mapping[str, str] | None = None  # this process's own

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def start(self) -> None:
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self._end_group()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the owner
            )
        _tell_reaper(f"+{self.pid}\n")

    def wait_ready(self, timeout_s: float = 60) -> None:
        def ready_or_dead() -> bool:
            if not self.running:
                raise RuntimeError(f"{self.name} ended while starting: see {self.log}")
            return self.is_ready()

        wait_until(ready_or_dead, timeout_s, f"{self.name} was not ready")

    def exit_code(self, timeout_s: float) -> int | None:
        """Wait for its end; None where it has none in time."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(timeout_s)
        return None

    def terminate(self) -> None:
        """Ask it to end, without waiting; a suspended one is resumed to hear it."""
        if self._process is not None:
            self._process.terminate()
        self.resume()

    def stop(self, timeout_s: float = 10) -> None:
        self.terminate()
        self.exit_code(timeout_s)
        self.kill()

    def kill(self) -> None:
        self._end_group()

    def suspend(self) -> None:
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_group(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()
        self.wait_ready()

    def _end_group(self) -> None:
        """Kill it and what it left; nothing of it runs afterwards."""
        if self._process is not None:
            self._signal_group(signal.SIGKILL)
            self._process.wait()
            _tell_reaper(f"-{self.pid}\n")
            self._process = None

    def _signal_group(self, number: signal.Signals) -> None:
        # macOS answers EPERM for a group of which only zombies are left.
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
