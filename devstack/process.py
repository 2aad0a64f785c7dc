"""One run of a command, under a guard.

In: a command, and the read end of a pipe that closes when the supervisor is gone.
Out: its exit code, and its output line by line or in a file. It restarts nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO

from devstack import guard

Say = Callable[[str], None]


@dataclass(frozen=True)
class Command:
    """What to run. Output goes to `log`, or to the terminal with `name` before each line.

    After SIGTERM it has `patience_s` seconds to end before it is killed.
    """

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    log: Path | None = None
    patience_s: float = 10.0


class Process:
    """One run of a command: the guard, the command and everything that it starts."""

    def __init__(self, command: Command, lifeline: int, say: Say) -> None:
        self.command = command
        self._started_at = time.monotonic()
        self._guard = _spawn(command, lifeline)
        if self._guard.stdout:
            args = (self._guard.stdout, command.name, say)
            Thread(target=_relay, args=args, daemon=True).start()

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_at

    def exit_code(self) -> int | None:
        """None while it runs; when it has ended, its process group is killed first."""
        if self._guard.returncode is None and self._guard.poll() is not None:
            self._kill_group()
        return self._guard.returncode

    def terminate(self) -> None:
        """Send SIGTERM; returns at once."""
        self._guard.terminate()

    def kill(self) -> None:
        """Kill the process group if it still runs, and wait for its end."""
        if self.exit_code() is None:
            self._kill_group()
            self._guard.wait()

    def _kill_group(self) -> None:
        # macOS raises EPERM for a group that has only zombies left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._guard.pid, signal.SIGKILL)


def _spawn(command: Command, lifeline: int) -> subprocess.Popen[bytes]:
    argv = [guard.__file__, str(command.patience_s), *command.argv]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(command.log.open("wb")) if command.log else None
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-IS", *argv],
            stdin=lifeline,
            stdout=log or subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=command.environ,
            # Not the checkout: an engine would read the .env file in it.
            cwd=command.log.parent if command.log else None,
            start_new_session=True,
        )


def _relay(lines: IO[bytes], name: str, say: Say) -> None:
    with lines:
        for line in lines:
            say(f"{name:8} | {line.decode(errors='replace').rstrip()}")
