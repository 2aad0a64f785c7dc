"""Engines in the background: started, and stopped by their pid file.

The background process is the same supervisor, without web process and consumer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from devstack import pidfile
from devstack.process import Say
from devstack.supervisor import RunFailed

STOP_S = 40.0
TICK_S = 0.1


def start(pid_file: Path, log: Path, say: Say) -> None:
    """Return when the engines are ready; raises RunFailed if they end instead."""
    if pid := pidfile.holder(pid_file):
        say(f"The engines already run in the background (process {pid}).")
        return
    with log.open("wb") as output:
        run = subprocess.Popen(  # noqa: S603
            [sys.executable, sys.argv[0], "run_local", "--engines-only"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Without MAKELEVEL it does not end with the make that started it.
            env={k: v for k, v in os.environ.items() if k != "MAKELEVEL"},
            start_new_session=True,
        )
    while pidfile.published(pid_file) != run.pid:
        if run.poll() is not None:
            raise RunFailed(f"the engines did not start:\n{log.read_text()}")
        time.sleep(TICK_S)
    say(f"The engines run in the background (process {run.pid}).")


def stop(pid_file: Path, say: Say) -> None:
    """Return when the engines have ended and saved the tables."""
    pid = pidfile.holder(pid_file)
    if pid is None:
        say("No engines run in the background.")
        return
    os.kill(pid, signal.SIGTERM)
    ends_at = time.monotonic() + STOP_S
    while pidfile.holder(pid_file):
        if time.monotonic() > ends_at:
            raise RunFailed(f"process {pid} did not end within {STOP_S:.0f} s")
        time.sleep(TICK_S)
    say("The engines have ended. The tables are kept under var/.")
