"""The lock file of a checkout: two runs would overwrite each other's tables.

The lock ends with the process that holds it, however it ends. A stale number in the
file is therefore never taken for a running process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


def acquire(path: Path) -> IO[str] | None:
    """The file, locked until it is closed; None if another process holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    return file


def publish(file: IO[str]) -> None:
    """Write this process's id: from now on the run can be used and stopped."""
    file.write(str(os.getpid()))
    file.flush()


def published(path: Path) -> int | None:
    """The id that the last holder wrote; its process may have ended."""
    text = path.read_text() if path.exists() else ""
    return int(text) if text else None


def holder(path: Path) -> int | None:
    """The id of the process that holds the lock, once it is published."""
    pid = published(path)
    if pid and (file := acquire(path)):
        file.close()
        return None
    return pid
