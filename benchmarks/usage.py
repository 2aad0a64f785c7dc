"""What a process uses, all processes of its group included. Linux only: it reads /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(leader: int) -> float:
    """Seconds of CPU so far."""
    return sum(int(s[11]) + int(s[12]) for s in _stats(leader)) / TICKS


def memory_mb(leader: int) -> float:
    """Resident memory."""
    return sum(int(stat[21]) for stat in _stats(leader)) * PAGE_BYTES / 1e6


def _stats(leader: int) -> Iterator[list[str]]:
    """The fields of /proc/PID/stat after the name, for each process of the group."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader:
            yield fields
