"""The core that a web worker keeps to, for as long as others leave it to us.

In: what the kernel tells of each core. Out: the affinity of this process's threads. They
share one interpreter, and to pass it from core to core takes two fifths of what an update
costs; on another's core we would wait instead. Linux; knows no HTTP, no Kafka.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOK_S = 1.0
MUCH = 0.2
"""Of a core: by how much more others have to use ours than another before we move."""

_TICKS = os.sysconf("SC_CLK_TCK")

Seconds = Mapping[int, float]
"""Of CPU; by core."""


def keep_to_one() -> None:
    """Keep this process to one core from now on, and move as the load of others does.

    On Linux; elsewhere it goes where the system puts it.
    """
    if sys.platform == "linux":
        threading.Thread(target=_keep, name="core", daemon=True).start()


@dataclass(frozen=True)
class Look:
    """What this process, and all together of each core allowed, used up until then."""

    at_s: float
    own_s: float
    used: Seconds

    @classmethod
    def now(cls) -> Look:
        """Raises OSError where the kernel can't be asked."""
        used = _used()
        allowed = {core: used[core] for core in used.keys() & os.sched_getaffinity(0)}
        return cls(time.monotonic(), time.process_time(), allowed)

    def others_since(self, before: Look, ours: int) -> Seconds:
        """By core, what others used of it per second while we were on ours."""
        passed_s = self.at_s - before.at_s
        own = {ours: self.own_s - before.own_s}
        return {
            core: (self.used[core] - before.used[core] - own.get(core, 0)) / passed_s
            for core in self.used.keys() & before.used.keys()
        }


def choose(ours: int, others: Seconds) -> int:
    """The core to keep to, where others use this much of each core.

    Two that meet on a core see the same: the chance keeps them from leaving together.
    """
    limit = others.get(ours, 1.0) - MUCH
    better = [core for core, used in others.items() if used < limit]
    return random.choice([*better, ours])  # noqa: S311 no secret


def _keep() -> None:
    """Not kept itself: so it sees which cores are allowed, be they others later."""
    ours, before = _where_we_are(), Look.now()
    while True:
        with suppress(OSError):  # not ours any more: look again
            _move(ours)
        time.sleep(LOOK_S)
        with suppress(OSError):  # no file can be opened now
            now = Look.now()
            ours, before = choose(ours, now.others_since(before, ours)), now


def _used() -> Seconds:
    """What is used up of each core since the machine started; proc(5), /proc/stat."""
    used = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            idle, waiting = int(ticks[3]), int(ticks[4])
            # The guests' ticks, from the ninth on, are in those of the user.
            busy = sum(map(int, ticks[:8])) - idle - waiting
            used[int(name[3:])] = busy / _TICKS
    return used


def _where_we_are() -> int:
    """The core on which the kernel put the process; see proc(5), /proc/pid/stat."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[36])


def _move(core: int) -> None:
    """Keep every thread but this to a core; those to come inherit it."""
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != threading.get_native_id():
            with suppress(ProcessLookupError):  # ended meanwhile
                os.sched_setaffinity(int(thread), {core})
