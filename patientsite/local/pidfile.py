"""The file that the one run of a checkout holds: its tables bear no second one.

A lock and not a number alone: the lock goes with its holder, however that ends, so a
number left behind is never taken for a process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


def acquire(path: Path) -> IO[str] | None:
    """The file, held until it is closed; None where another process holds it."""
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
    """Tell who holds the file, once it is ready to be used and ended."""
    file.write(str(os.getpid()))
    file.flush()


def published(path: Path) -> int | None:
    """What the last holder told, who may be gone by now."""
    text = path.read_text() if path.exists() else ""
    return int(text) if text else None


def holder(path: Path) -> int | None:
    """The process that holds the file and has told so."""
    pid = published(path)
    if pid and (file := acquire(path)):
        file.close()
        return None
    return pid
