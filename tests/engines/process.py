"""One engine as a process: started, killed, suspended, and never left behind.

A command in, a process with a log file out; does not know what the command serves.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

# Linux kills an engine when the *thread* that started it ends, so all are started
# by one thread that lives as long as this process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine-starter")
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


class Engine:
    """Keeps its port and its directory over any number of starts."""

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
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self._process = _starter.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        setpriv = shutil.which(
            "setpriv"
        )  # Linux only; elsewhere the owner must stop it
        dies_with_us = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*dies_with_us, *self.command()],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the owner
            )

    def wait_ready(self, timeout_s: float = 60) -> None:
        def ready_or_dead() -> bool:
            if not self.running:
                raise RuntimeError(f"{self.name} ended while starting: see {self.log}")
            return self.is_ready()

        wait_until(ready_or_dead, timeout_s, f"{self.name} was not ready")

    def terminate(self) -> None:
        """Ask it to end, without waiting; a suspended one is resumed to hear it."""
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)

    def stop(self, timeout_s: float = 10) -> None:
        self.terminate()
        try:
            self._wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self._wait(timeout_s=None)

    def suspend(self) -> None:
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()
        self.wait_ready()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _wait(self, timeout_s: float | None) -> None:
        if self._process is not None:
            self._process.wait(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
