"""The apply scenes: a backlog on the topic, consumed into the table.

In: a Bench. Out: measures in its book. A contender's progress is read from the committed
offsets of its group, the same measure for all.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import requests

from benchmarks import contract, engines, workload
from benchmarks.bench import TURNS, Bench
from benchmarks.book import Measure
from benchmarks.contenders import (
    Contender,
    Site,
    go_consumer,
    our_consumer,
    our_server,
    peer_consumer,
    raw,
)
from tests.engines.process import wait_until

OURS = "project"
NAIVE, AIO = "(c) naive consumer", "(d) aiokafka, aiobotocore"
GO = "(h) Go, franz-go"
PARTIQL, TRANSACT = "(f) raw PartiQL, 25", "(f) raw transactions, 100"
LOOPS = {PARTIQL: "partiql", TRANSACT: "transact"}
PATIENTS = 30_000
"""So many that a batch of 2,000 holds none twice, even one of a single partition."""
TIMES_ROUND = 5
"""So many that the backlog outlasts all windows."""
NEW_PATIENTS = 100_000
FEW, MANY = 600, 300_000
FIRST_BATCH_S = 60

LONE_UPDATES = 30
APPLIED_MS = "from POST to applied, one update at a time, ms, median"

Make = Callable[[Site], Contender]
CONSUMERS: dict[str, Make] = {
    OURS: our_consumer,
    NAIVE: lambda site: peer_consumer("naive_consumer", site),
    AIO: lambda site: peer_consumer("aio_consumer", site),
}


def measure(site: Site, consumers: Sequence[Contender], seconds: float) -> Measure:
    """Run consumers of the site's group for a while.

    The window opens at a commit, once all have joined, and closes at one: neither the
    start nor a half-done batch is in it.
    """
    with engines.progress(site) as progress:
        try:
            for consumer in consumers:
                consumer.start()
            for consumer in consumers:
                consumer.wait_ready()
            opened, at_open, cpu_open = _next_commit(progress, progress(), consumers)
            time.sleep(max(0.1, opened + seconds - time.monotonic()))
            closed, at_close, cpu_close = _next_commit(progress, progress(), consumers)
        finally:
            for consumer in consumers:
                consumer.terminate()
            for consumer in consumers:
                consumer.stop()
    return Measure(at_close - at_open, closed - opened, cpu_close - cpu_open)


def _next_commit(
    progress: Callable[[], int], known: int, consumers: Sequence[Contender]
) -> tuple[float, int, float]:
    """The moment, the count and the CPU so far when more than what is known is done."""
    wait_until(lambda: progress() > known, FIRST_BATCH_S, "no record was consumed")
    cpu = sum(consumer.cpu_s() for consumer in consumers)
    return time.monotonic(), progress(), cpu


def scenes(bench: Bench) -> None:
    """Items that exist, and new ones; several updates of a patient; one update alone."""
    check(bench)
    existing = _existing(bench)
    new = _new(bench)
    lines = bench.directory / "patients.ndjson"
    lines.write_bytes(b"\n".join(workload.updates(PATIENTS)))
    for _ in range(bench.rounds):
        for contender in (*[OURS, PARTIQL] * TURNS, NAIVE, AIO, TRANSACT):
            if contender in CONSUMERS:
                site = existing[contender]
                done = measure(site, [CONSUMERS[contender](site)], bench.seconds)
                bench.note("apply existing", contender, done)
            else:
                _loop(bench, existing[OURS], contender, lines)
        for name, make in CONSUMERS.items():
            done = measure(new[name], [make(new[name])], bench.seconds)
            bench.note("apply new", name, done)
    coalesced(bench)
    lone(bench)


def check(bench: Bench) -> None:
    """Every consumer leaves the items that the updates on a topic fold to."""
    site = engines.provision(bench.apache, "contract")
    engines.fill_topic(site, (json.dumps(u).encode() for u in contract.updates()))
    makes = [*CONSUMERS.values(), go_consumer]
    for number, make in enumerate(makes):
        name = f"contract-{number}"
        own = site.having(KAFKA_GROUP_ID=name, DYNAMODB_TABLE=name)
        if consumer := make(own):
            own.manage("provision")
            contract.check_consumer(consumer, own)


def _loop(bench: Bench, site: Site, name: str, lines: Path) -> None:
    """A loop of (f) over the items that the project writes."""
    options = (LOOPS[name], str(lines), str(bench.seconds))
    found = raw("raw_writes", site.having(CALLS="4"), *options)
    bench.note_raw("apply existing", name, found)


def coalesced(bench: Bench) -> None:
    """Updates of few patients: several of each in a batch are one write."""
    site = engines.provision(bench.apache, "coalesced")
    engines.fill_topic(site, list(workload.updates(FEW)) * (MANY // FEW))
    consumer = our_consumer(site, "coalesced")
    done = measure(site, [consumer], bench.seconds)
    bench.note("apply coalesced", OURS, done)
    per_write = updates_per_write(site, consumer)
    bench.figure("apply coalesced, updates per write", per_write)


def updates_per_write(site: Site, consumer: Contender) -> float:
    """How many updates our consumer folded into a write, by its log."""
    written = sum(map(int, re.findall(rb"applied=(\d+)", consumer.log.read_bytes())))
    with engines.progress(site) as progress:
        return progress() / written


def lone(bench: Bench) -> None:
    """One update at a time, from its POST until a read of the table returns it."""
    site = engines.provision(bench.apache, "lone")
    consumer = our_consumer(site, "lone")
    with our_server(site) as server, consumer:  # is entered once it has its partitions
        name = "consume_profiles until assigned, s of CPU"
        bench.figure(name, consumer.cpu_s())
        url = f"http://127.0.0.1:{server.port}/patientprofile"
        taken = [_applied_s(site, url, n) for n in range(LONE_UPDATES)]
    bench.figure(APPLIED_MS, 1e3 * statistics.median(taken[5:]))


def _applied_s(site: Site, url: str, number: int) -> float:
    patient = f"lone-{number}"
    started = time.monotonic()
    requests.post(url, json={"PatientId": patient}, timeout=10).raise_for_status()
    while not engines.has_item(site, patient):
        if time.monotonic() - started > FIRST_BATCH_S:
            raise TimeoutError(f"the update of {patient} was not applied")
    return time.monotonic() - started


def _existing(bench: Bench) -> dict[str, Site]:
    """A table of patients, and a backlog of updates of them.

    The project has marked its items, so they are like one that it has written.
    """
    site = engines.provision(bench.apache, "existing")
    sites = {name: site.having(KAFKA_GROUP_ID=name) for name in CONSUMERS}
    engines.fill_topic(site, workload.updates(1))
    sites[OURS].manage("consume_profiles", "--until-caught-up")
    engines.fill_table(site, PATIENTS, engines.marks(site, workload.PATIENT.format(0)))
    engines.fill_topic(site, list(workload.updates(PATIENTS)) * TIMES_ROUND)
    return sites


def _new(bench: Bench) -> dict[str, Site]:
    """A backlog that names every patient once, and an empty table for each."""
    site = engines.provision(bench.apache, "new")
    engines.fill_topic(site, workload.updates(NEW_PATIENTS))
    sites = {}
    for number, name in enumerate(CONSUMERS):
        sites[name] = site.having(KAFKA_GROUP_ID=name, DYNAMODB_TABLE=f"new-{number}")
        sites[name].manage("provision")
    return sites
