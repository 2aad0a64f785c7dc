"""Throttles: how often one client may ask.

In: a client's name. Out: how long it has to wait. Counts within this process only, so
a server of N workers lets N times the rate through. Knows no request.
"""

from __future__ import annotations

import time
from functools import cache
from threading import Lock

from django.conf import settings

REMEMBERED = 10_000
ROUNDING_S = 1e-6


class Throttle:
    """At most `count` requests per `period_s` and client, which may come at once.

    The generic cell rate algorithm: one number per client, the moment at which its
    allowance is whole again.
    """

    def __init__(self, count: int, period_s: float) -> None:
        self._interval_s = period_s / count
        self._burst_s = period_s - self._interval_s
        self._whole_at: dict[str, float] = {}
        self._lock = Lock()

    def wait_s(self, client: str) -> float:
        """0: go on, and it is counted; else the seconds to wait."""
        now = time.monotonic()
        with self._lock:
            whole_at = max(self._whole_at.pop(client, now), now)
            wait_s = whole_at - now - self._burst_s
            if wait_s <= ROUNDING_S:
                wait_s, whole_at = 0.0, whole_at + self._interval_s
            self._whole_at[client] = whole_at
            if len(self._whole_at) > REMEMBERED:  # the one that asked longest ago
                del self._whole_at[next(iter(self._whole_at))]
        return wait_s


@cache
def throttle() -> Throttle | None:
    """This process's throttle; None where it is off."""
    if settings.THROTTLE_RATE is None:
        return None
    return Throttle(*settings.THROTTLE_RATE)
