"""One child of `make run`, ended when the supervisor is gone.

In: the seconds that the command gets to end by itself, the command, and a standard
input that is a pipe whose other end only the supervisor holds. Out: the command's
exit code; no process is left once the pipe closes. Portable where a parent-death
signal is not. It knows nothing of Django.
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
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while child.poll() is None:
        if select.select([sys.stdin], [], [], TICK_S)[0]:
            end_group(child, patience_s)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def end_group(child: subprocess.Popen[bytes], patience_s: float) -> None:
    child.terminate()
    ends_at = time.monotonic() + patience_s
    while child.poll() is None and time.monotonic() < ends_at:
        time.sleep(TICK_S)
    os.killpg(0, signal.SIGKILL)  # this process included: nobody reads its code now


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
