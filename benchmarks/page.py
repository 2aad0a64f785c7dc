"""The page scene: a patient's page, whose records are spread over a long partition.

In: a Bench. Out: figures.
"""

from __future__ import annotations

import re
import statistics
import time

import requests

from benchmarks import engines, workload
from benchmarks.bench import Bench
from benchmarks.contenders import our_server

RECORDS, OF_PATIENT, VIEWS = 30_000, 10, 15
OTHERS = 50
"""So few that a batch of them is a few writes."""
DETAIL_MS = f"a patient's page, {RECORDS:,} records in the partition, ms, median"
FOUND = f"records of {OF_PATIENT} on that page"


def scene(bench: Bench) -> None:
    """One partition, in which ten records of the patient lie far apart, all applied."""
    site = engines.provision(bench.apache, "page", partitions=1)
    patient, *others = workload.updates(1 + OTHERS)
    stretch = [patient, *others * (RECORDS // OF_PATIENT // OTHERS)]
    engines.fill_topic(site, stretch * OF_PATIENT)
    site.manage("consume_profiles", "--until-caught-up")
    with our_server(site) as server:
        patient_id = workload.PATIENT.format(0)
        url = f"http://127.0.0.1:{server.port}/profiles/{patient_id}/"
        taken, found = zip(*[_view(url) for _ in range(VIEWS)], strict=True)
    bench.figure(DETAIL_MS, 1e3 * statistics.median(taken))
    bench.figure(f"{DETAIL_MS.removesuffix('median')}worst", 1e3 * max(taken))
    bench.figure(FOUND, statistics.median(found))


def _view(url: str) -> tuple[float, int]:
    """How long a view took, and how many records its timeline shows."""
    started = time.monotonic()
    answer = requests.get(url, timeout=30)
    answer.raise_for_status()
    return time.monotonic() - started, len(re.findall("state state-", answer.text))
