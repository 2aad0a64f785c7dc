"""Telemetry: what the processes tell about themselves.

In: log records. Out: fewer of them. Knows no profile.
"""

from __future__ import annotations

import logging
import time

SILENCE_S = 10.0


class Repeats(logging.Filter):
    """Passes a line of librdkafka once in SILENCE_S per client and kind.

    A broker that is away is reported up to twenty times a second otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.args[:2] if isinstance(record.args, tuple) else record.msg
        now = time.monotonic()
        if now - self._passed.get(kind, -SILENCE_S) < SILENCE_S:
            return False
        self._passed[kind] = now
        return True
