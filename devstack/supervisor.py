"""The supervisor of `make run`: starts processes, watches them and stops them.

In: engines (if one ends, the run fails) and services (one that ends is restarted).
Out: lines for a person. It leaves no process behind: each runs under a guard, in a
session of its own, so that Ctrl-C signals the supervisor only. Knows no Django and no
engine.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Self

from devstack.process import Command, Process, Say

FIRST_DELAY_S, LAST_DELAY_S = 1.0, 30.0
SETTLED_S = 60.0
"""A service that ran this long is restarted after the first delay again."""
SAME_SIGNAL_S = 1.0
START_S = 60.0
DRAIN_S = 6.0
"""How long the consumer may work after the web process has stopped."""
STOP_S = 18.0
"""How long all processes together may take to end before they are killed."""
TICK_S = 0.1


class Interrupted(Exception):
    """Ctrl-C or another signal stops the run."""


class RunFailed(Exception):
    """The run can't go on; the message says why."""


class Service:
    """A command that is restarted when it ends, after a delay that doubles."""

    def __init__(self, start: Callable[[], Process], say: Say) -> None:
        self._start = start
        self._say = say
        self._delay_s = FIRST_DELAY_S
        self._restart_at = 0.0
        self.process = start()

    def tend(self) -> None:
        """Plan the restart of a process that has ended, or restart it when due."""
        code = self.process.exit_code()
        if code is None:
            return
        if not self._restart_at:
            self._plan_restart(code)
        elif time.monotonic() >= self._restart_at:
            self._restart_at = 0.0
            self.process = self._start()

    def _plan_restart(self, code: int) -> None:
        if self.process.age_s >= SETTLED_S:
            self._delay_s = FIRST_DELAY_S
        name, delay_s = self.process.command.name, self._delay_s
        self._say(f"{name} ended with exit code {code}: restart in {delay_s:.0f} s")
        self._restart_at = time.monotonic() + delay_s
        self._delay_s = min(2 * delay_s, LAST_DELAY_S)


class Supervisor:
    """Owns every process of the run; at the end of its `with` block none is left."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lifeline, self._held_end = os.pipe()
        self._processes: list[Process] = []
        self._engines: list[Process] = []
        self._services: list[Service] = []
        # make can't forward a SIGKILL: the run ends when its parent has gone.
        self._parent = os.getppid() if "MAKELEVEL" in os.environ else None
        self._interrupts = self._handled = 0
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
        """Start a process without which the run fails."""
        self._engines.append(self._start(command))

    def start_service(self, command: Command) -> None:
        """Start a process that is restarted when it ends."""
        self._services.append(Service(lambda: self._start(command), self._say))

    def wait_until(
        self, condition: Callable[[], bool], failure: str, seconds: float = START_S
    ) -> None:
        """Return when the condition is true; raises RunFailed with `failure` if late."""
        ends_at = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > ends_at:
                raise RunFailed(f"{failure} within {seconds:.0f} s")
            self._tend()

    def watch(self) -> None:
        """Run until Interrupted or RunFailed is raised."""
        while True:
            self._tend()

    def stop(self, drained: Callable[[], bool]) -> None:
        """Stop the first service, wait until `drained`, stop the rest, engines last.

        Raises RunFailed if it is not drained in time. A second interrupt raises
        Interrupted: the end of the `with` block then kills what is left.
        """
        self._handled = self._interrupts
        kill_at = time.monotonic() + STOP_S
        try:
            if self._services and not self._dead_engine():
                self._end(self._services.pop(0).process, kill_at)
                failure = "the consumer did not apply all accepted updates"
                self.wait_until(drained, failure, DRAIN_S)
        finally:
            services = [service.process for service in self._services]
            for process in [*services, *reversed(self._engines)]:
                self._end(process, kill_at)

    def _start(self, command: Command) -> Process:
        self._processes = [p for p in self._processes if p.exit_code() is None]
        process = Process(command, self._lifeline, self._say)
        self._processes.append(process)
        return process

    def _tend(self) -> None:
        if dead := self._dead_engine():
            raise RunFailed(
                f"{dead.command.name} ended with exit code {dead.exit_code()}; "
                f"its log is {dead.command.log}"
            )
        for service in self._services:
            service.tend()
        self._pause()

    def _dead_engine(self) -> Process | None:
        dead = (engine for engine in self._engines if engine.exit_code() is not None)
        return next(dead, None)

    def _end(self, process: Process, kill_at: float) -> None:
        """Terminate it; kill it when its own time or the time of all is over."""
        if process.exit_code() is None:
            process.terminate()
            kill_at = min(kill_at, time.monotonic() + process.command.patience_s)
            while process.exit_code() is None and time.monotonic() < kill_at:
                self._pause()
            process.kill()

    def _pause(self) -> None:
        time.sleep(TICK_S)
        if self._parent and os.getppid() != self._parent:
            self._parent = None
            self._interrupt()
        if self._interrupts > self._handled:
            raise Interrupted

    def _interrupt(self) -> None:
        """Record an interrupt; Ctrl-C under make arrives twice, but is one."""
        now = time.monotonic()
        if now - self._interrupted_at > SAME_SIGNAL_S:
            self._interrupts += 1
            self._interrupted_at = now
