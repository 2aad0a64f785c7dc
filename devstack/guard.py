"""The guard of one process: ends it when the supervisor is gone.

In: the seconds that the command may take to end, and the command. Standard input is a
pipe whose other end only the supervisor holds. Out: the command's exit code. When the
pipe closes, the whole process group ends. A pipe is portable; a parent-death signal is
for Linux only. Knows no Django: it runs as a script of its own.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

TICK_S = 0.1


def main(patience_s: float, command: list[str]) -> int:
    """Run the command to its end; returns its exit code as a shell does."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while child.poll() is None:
        if select.select([sys.stdin], [], [], TICK_S)[0]:
            end_group(child, patience_s)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def end_group(child: subprocess.Popen[bytes], patience_s: float) -> None:
    """Terminate the child, then kill the process group, this process included."""
    child.terminate()
    ends_at = time.monotonic() + patience_s
    while child.poll() is None and time.monotonic() < ends_at:
        time.sleep(TICK_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
