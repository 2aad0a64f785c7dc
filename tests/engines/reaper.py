"""Ends process groups when their owner is gone, however it went, even by SIGKILL.

In: a standard input whose other end only the owner holds; `+ID` adopts a group, `-ID`
lets it go. At its end every group left is killed, suspended ones and the children of
killed ones too. Knows no engine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
