"""The supervisor of `make run`: starts processes, watches them, ends them.

In: engines (one that dies ends the run) and services (one that dies is started
again). Out: lines for a person, and no process left behind: each runs under a guard,
in a session of its own, so that Ctrl-C reaches the supervisor only. It knows neither
Django nor what the processes do.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Self

from patientsite.local.process import Command, Process, Say

FIRST_DELAY_S, LAST_DELAY_S = 1.0, 30.0
SETTLED_S = 60.0
SAME_SIGNAL_S = 1.0
WAIT_S = 60.0
TICK_S = 0.1


class Interrupted(Exception):
    """Ctrl-C or another signal asks for the end."""


class RunFailed(Exception):
    """The run can't go on; the message says why and where to look."""


class Service:
    """A command that is started again when it ends, later each time."""

    def __init__(self, start: Callable[[], Process], say: Say) -> None:
        self._start = start
        self._say = say
        self._delay_s = FIRST_DELAY_S
        self._restart_at = 0.0
        self.process = start()

    def tend(self) -> None:
        code = self.process.exit_code()
        if code is None:
            return
        if not self._restart_at:
            self._plan_restart(code)
        elif time.monotonic() >= self._restart_at:
            self._restart_at = 0.0
            self.process = self._start()

    def _plan_restart(self, code: int) -> None:
        if self.process.lived_s >= SETTLED_S:
            self._delay_s = FIRST_DELAY_S
        name = self.process.command.name
        self._say(f"{name} ended with exit code {code}: again in {self._delay_s:.0f} s")
        self._restart_at = time.monotonic() + self._delay_s
        self._delay_s = min(2 * self._delay_s, LAST_DELAY_S)


class Supervisor:
    """Owns every process of the run; leaving its `with` block leaves none."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lifeline, self._held_end = os.pipe()
        self._processes: list[Process] = []
        self._engines: list[Process] = []
        self._services: list[Service] = []
        # make can't hand on a SIGKILL: whoever it started ends with it.
        self._parent = os.getppid() if "MAKELEVEL" in os.environ else None
        self._interrupts = self._heeded = 0
        self._interrupted_at = -SAME_SIGNAL_S

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: self._interrupt())  # nohup ignores it
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        os.close(self._held_end)
        os.close(self._lifeline)

    def start_engine(self, command: Command) -> None:
        self._engines.append(self._start(command))

    def start_service(self, command: Command) -> None:
        self._services.append(Service(lambda: self._start(command), self._say))

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Return once the condition holds; raises RunFailed where it doesn't in time.

        `what` is that failure in words, up to the seconds.
        """
        ends_at = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > ends_at:
                raise RunFailed(f"{what} within {WAIT_S:.0f} s")
            self._tend()

    def watch(self) -> None:
        """Tend the processes until Interrupted or RunFailed is raised."""
        while True:
            self._tend()

    def stop(self, settled: Callable[[], bool]) -> None:
        """End the first service, wait until the others have settled, end them too.

        The engines come last, in any case. Raises RunFailed where nothing settled;
        another interrupt meanwhile raises Interrupted, and all ends at once.
        """
        self._heeded = self._interrupts
        try:
            if self._services and not self._dead_engine():
                self._end(self._services.pop(0).process)
                self.wait_until(settled, "what was accepted last was not all applied")
        finally:
            for process in [service.process for service in self._services]:
                self._end(process)
            for engine in reversed(self._engines):
                self._end(engine)

    def _start(self, command: Command) -> Process:
        self._processes = [p for p in self._processes if p.exit_code() is None]
        process = Process(command, self._lifeline, self._say)
        self._processes.append(process)
        return process

    def _tend(self) -> None:
        if dead := self._dead_engine():
            raise RunFailed(
                f"{dead.command.name} ended with exit code {dead.exit_code()}; "
                f"its last words are in {dead.command.log}"
            )
        for service in self._services:
            service.tend()
        self._pause()

    def _dead_engine(self) -> Process | None:
        dead = (engine for engine in self._engines if engine.exit_code() is not None)
        return next(dead, None)

    def _end(self, process: Process) -> None:
        if process.exit_code() is None:
            process.terminate()
            self._await_exit(process)
            process.kill()

    def _await_exit(self, process: Process) -> None:
        ends_at = time.monotonic() + process.command.patience_s
        while process.exit_code() is None and time.monotonic() < ends_at:
            self._pause()

    def _pause(self) -> None:
        time.sleep(TICK_S)
        if self._parent and os.getppid() != self._parent:
            self._parent = None
            self._interrupt()
        if self._interrupts > self._heeded:
            raise Interrupted

    def _interrupt(self) -> None:
        """Count one; a signal to the whole group arrives twice, here and from make."""
        now = time.monotonic()
        if now - self._interrupted_at > SAME_SIGNAL_S:
            self._interrupts += 1
            self._interrupted_at = now
