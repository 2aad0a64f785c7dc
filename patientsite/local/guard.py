"""One child of `make run`, ended when the supervisor is gone.

In: a command, and a standard input that is a pipe whose other end only the
supervisor holds. Out: the command's exit code; no process is left once the pipe
closes. Portable where a parent-death signal is not. It knows nothing of Django.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

PATIENCE_S = 5.0
TICK_S = 0.1


def main(command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while child.poll() is None:
        if select.select([sys.stdin], [], [], TICK_S)[0]:
            end_group(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def end_group(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    ends_at = time.monotonic() + PATIENCE_S
    while child.poll() is None and time.monotonic() < ends_at:
        time.sleep(TICK_S)
    os.killpg(0, signal.SIGKILL)  # this process included: nobody reads its code now


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
