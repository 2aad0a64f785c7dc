"""Metrics: every figure that the processes count, in one place.

Out: Prometheus text. Neither PatientIds nor values are labels. Several web workers write
to PROMETHEUS_MULTIPROC_DIR, and each of them reports the sum.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY

from profiles.core.records import Code

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_AGES = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400)

accepted = Counter("profile_updates_accepted", "Updates that Kafka acknowledged.")
refused = Counter(
    "profile_requests_refused", "Requests of updates refused, by status.", ["status"]
)
acknowledgement = Histogram(
    "profile_acknowledgement_seconds",
    "From produce to acknowledgement.",
    buckets=_SECONDS,
)
applied = Counter("profile_updates_applied", "Writes that changed an item.")
already = Counter("profile_updates_already_applied", "Writes that the fence refused.")
coalesced = Counter("profile_updates_coalesced", "Updates folded into another's write.")
retried = Counter("profile_writes_retried", "Writes that were left for a next attempt.")
dead_lettered = Counter(
    "profile_records_dead_lettered", "Records that are no update, by reason.", ["code"]
)
for _code in get_args(Code):
    dead_lettered.labels(_code)  # start at 0: an increase from absent is not seen
batch_records = Histogram(
    "profile_batch_records",
    "Records in a batch.",
    buckets=(1, 5, 25, 100, 250, 500, 1000, 2000),
)
lag = Gauge("profile_lag_records", "Records past the committed offset.", ["partition"])
age = Histogram(
    "profile_update_age_seconds", "From record timestamp to write.", buckets=_AGES
)


def exposition() -> bytes:
    """This process's figures, or the sum of all web workers'."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    return generate_latest(together)


def share(directory: Path) -> None:
    """Let the workers report their sum; call this before they start."""
    for left_over in directory.glob("*.db"):
        left_over.unlink()
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)


def serve(address: str, port: int) -> None:
    """Serve the figures on a port of their own, in a thread: the consumer has no server."""
    start_http_server(port, address)
