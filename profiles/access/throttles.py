"""Throttles: how many requests one client may send.

In: a client's name. Out: how long it has to wait. Each process counts for itself, so N
workers allow N times the rate. Knows no request.
"""

from __future__ import annotations

import time
from functools import cache
from threading import Lock

from django.conf import settings

REMEMBERED = 10_000
ROUNDING_S = 1e-6


class Throttle:
    """At most `count` requests per `period_s` and client; bursts are allowed.

    The generic cell rate algorithm. It keeps one number per client: the moment at which
    the allowance is full again.
    """

    def __init__(self, count: int, period_s: float) -> None:
        self._interval_s = period_s / count
        self._burst_s = period_s - self._interval_s
        self._whole_at: dict[str, float] = {}
        self._lock = Lock()

    def wait_s(self, client: str) -> float:
        """Count a request and return 0; or return the seconds to wait."""
        now = time.monotonic()
        with self._lock:
            whole_at = max(self._whole_at.pop(client, now), now)
            wait_s = whole_at - now - self._burst_s
            if wait_s <= ROUNDING_S:
                wait_s, whole_at = 0.0, whole_at + self._interval_s
            self._whole_at[client] = whole_at
            if len(self._whole_at) > REMEMBERED:  # the least recent client
                del self._whole_at[next(iter(self._whole_at))]
        return wait_s


@cache
def throttle() -> Throttle | None:
    """This process's throttle; None where it is off."""
    if settings.THROTTLE_RATE is None:
        return None
    return Throttle(*settings.THROTTLE_RATE)
