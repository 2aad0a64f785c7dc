"""The scale scenes: more processes, more items, more partitions, a million updates.

In: a Bench. Out: measures and notes in its book.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from benchmarks import apply, engines, ingest, load, workload
from benchmarks.bench import Bench
from benchmarks.contenders import Site, fastapi_server, our_consumer, our_server
from tests.engines.process import wait_until

MARKS = (100_000, 500_000, 1_000_000)
REQUEST = 10_000
PAGE = 50
ITEMS = (1_000, 10_000, 100_000)


def scenes(bench: Bench) -> None:
    """All of them."""
    web_workers(bench)
    web_memory(bench)
    consumers(bench)
    partitions(bench)
    item_counts(bench)
    consumer_memory(bench)


def web_workers(bench: Bench) -> None:
    """One worker and two, ours and the peer's."""
    site = engines.provision(bench.apache, "workers")
    all_servers = {
        f"{name}, {workers} workers": make(site, workers)
        for workers in (1, 2)
        for name, make in ((ingest.OURS, our_server), (ingest.FASTAPI, fastapi_server))
    }
    with ingest.serving(all_servers, site) as servers:
        for name, server in servers.items():
            found = ingest.measure(
                server, site, ingest.singles(), ingest.USUAL_CONNECTIONS, bench.seconds
            )
            bench.note("web workers", name, found)


def web_memory(bench: Bench) -> None:
    """What a web process holds after a million updates in arrays."""
    with our_server(engines.provision(bench.apache, "web-memory")) as server:
        requests = ingest.many(server.many, REQUEST, 4)
        posted = 0
        for updates in MARKS:
            load.run(server.port, requests, 1, 300, (updates - posted) // REQUEST)
            posted = updates
            note = f"web after {updates:,} updates, MB resident"
            bench.figure(note, server.memory_mb())


def consumers(bench: Bench) -> None:
    """One member of the group, two, four."""
    for members in (1, 2, 4):
        # A group of its own: Tansu gives none to one whose members all left at once.
        site = _backlog(bench, f"members-of-{members}", engines.PARTITIONS)
        names = [f"member-{number}-of-{members}" for number in range(members)]
        group = [our_consumer(site, name) for name in names]
        found = apply.measure(site, group, bench.seconds)
        bench.note("consumers", f"{members}", found)


def partitions(bench: Bench) -> None:
    """One partition, twelve, forty-eight."""
    for count in (1, 12, 48):
        site = _backlog(bench, f"partitions-{count}", count)
        found = apply.measure(site, [our_consumer(site)], bench.seconds)
        bench.note("partitions", f"{count}", found)


def item_counts(bench: Bench) -> None:
    """A table of a thousand items, of ten, of a hundred; then pages of the last.

    By writes too: of few patients, several updates in a batch are one write.
    """
    for count in ITEMS:
        site = engines.provision(bench.apache, f"items-{count}")
        engines.fill_table(site, count)
        patients = list(workload.updates(min(count, apply.PATIENTS)))
        engines.fill_topic(site, patients * (apply.NEW_PATIENTS // len(patients)))
        consumer = our_consumer(site, f"items-{count}")
        found = apply.measure(site, [consumer], bench.seconds)
        bench.note("updates, by items", f"{count:,}", found)
        writes = found.updates / apply.updates_per_write(site, consumer)
        found = replace(found, updates=round(writes))
        bench.note("writes, by items", f"{count:,}", found)
    reads(bench, site)


def reads(bench: Bench, site: Site) -> None:
    """A page of the list as JSON and as HTML, beside DynamoDB's own answer."""

    def note(what: str, seconds: float) -> None:
        bench.figure(f"{PAGE} of {ITEMS[-1]:,} items, {what}, ms", 1e3 * seconds)

    note("DynamoDB's own answer", engines.page_s(site, PAGE, bench.seconds / 2))
    with our_server(site) as server:
        address = f"/patientprofile?limit={PAGE}"
        first = load.run(server.port, [load.get(address)], 1, 60, most=1).last
        cursor = json.loads(first)["Cursor"]
        for name, path in {
            "GET list": address,
            "GET list, by cursor": f"{address}&cursor={cursor}",
            "HTML list": "/profiles/",
        }.items():
            found = load.run(server.port, [load.get(path)], 1, bench.seconds / 2)
            note(name, found.latency(0.5))


def consumer_memory(bench: Bench) -> None:
    """What a consumer holds after a million records of few patients."""
    site = engines.provision(bench.apache, "consumer-memory")
    rounds = MARKS[-1] // apply.FEW + 1
    engines.fill_topic(site, list(workload.updates(apply.FEW)) * rounds)
    with engines.progress(site) as progress, our_consumer(site) as consumer:
        for records in MARKS:
            _wait_for(progress, records)
            note = f"consumer after {records:,} records, MB resident"
            bench.figure(note, consumer.memory_mb())


def _wait_for(progress: Callable[[], int], records: int) -> None:
    wait_until(lambda: progress() >= records, 300, f"{records:,} were not consumed")


def _backlog(bench: Bench, name: str, partitions: int) -> Site:
    site = engines.provision(bench.apache, name, partitions)
    engines.fill_topic(site, workload.updates(apply.NEW_PATIENTS))
    return site
