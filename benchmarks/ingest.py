"""The ingest scenes: updates over HTTP until Kafka has acknowledged them.

In: a Bench. Out: measures in its book. Every server meets the contract before it is
timed, and every answer has to be a 202.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import jwt

from benchmarks import contract, engines, load, usage, workload
from benchmarks.bench import TURNS, Bench
from benchmarks.book import Measure
from benchmarks.contenders import (
    Server,
    Site,
    blacksheep_server,
    fastapi_server,
    go_server,
    naive_server,
    our_server,
    raw,
    rust_server,
)

OURS, NAIVE, FASTAPI = "project", "(a) naive Django", "(b) FastAPI"
RAW, GO = "(e) raw librdkafka", "(g) Go, franz-go"
RUST, BLACKSHEEP = "(i) Rust, librdkafka", "(j) BlackSheep"
WITH_TOKEN, BESIDE_WAITERS = "project, with a token", "project, beside 32 that wait"
WAITERS = 32
KEY = secrets.token_urlsafe(32)
DOOR = {"JWT_ISSUER": "bench", "JWT_AUDIENCE": "bench", "JWT_LOCAL_KEY": KEY}
"""A token that is sent is checked; a client without one is let in, as in development."""
CONNECTIONS = (1, 16, 64, 256)
USUAL_CONNECTIONS = 64
MANY_CONNECTIONS = 4
MANY = 1000


def singles(token: str = "") -> list[bytes]:
    """One update per request."""
    bodies = workload.updates(5000)
    return [load.request("/patientprofile", body, token) for body in bodies]


def a_token() -> str:
    """One that opens the project's door for an hour."""
    claims = {"iss": "bench", "aud": "bench", "sub": "load", "scope": "profiles:write"}
    return jwt.encode({**claims, "exp": int(time.time()) + 3600}, KEY, "HS256")


def many(path: str, size: int = MANY, requests: int = 8) -> list[bytes]:
    """An array of updates per request."""
    return [
        load.request(path, b"[" + b",".join(workload.updates(size, i * size)) + b"]")
        for i in range(requests)
    ]


def lines(path: str, size: int = MANY, requests: int = 8) -> list[bytes]:
    """NDJSON per request, of the same updates."""
    return [
        load.request(
            path,
            b"\n".join(workload.updates(size, i * size)),
            content_type="application/x-ndjson",
        )
        for i in range(requests)
    ]


@contextmanager
def serving(
    servers: Mapping[str, Server | None], site: Site
) -> Iterator[dict[str, Server]]:
    """Those that can be built, started one after the other, each checked."""
    with ExitStack() as running:
        there = {name: server for name, server in servers.items() if server}
        for server in there.values():
            running.enter_context(server)
            contract.check_server(server, site)
        yield there


def measure(
    server: Server,
    site: Site,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    size: int = 1,
) -> Measure:
    """Warm the server up, then load it; every answer has to be a 202."""
    load.run(server.port, requests, connections, min(1, seconds / 4))
    cpu, kafka = server.cpu_s(), usage.cpu_s(site.kafka.pid)
    done = load.run(server.port, requests, connections, seconds)
    used, kafka_used = server.cpu_s() - cpu, usage.cpu_s(site.kafka.pid) - kafka
    if set(done.answers) != {202}:
        raise RuntimeError(f"{server.name} answered {dict(done.answers)}")
    return Measure(
        done.answers[202] * size,
        done.seconds,
        used,
        done.latency(0.5),
        done.latency(0.99),
        kafka_used,
    )


def single(bench: Bench) -> None:
    """One update per request, from ever more connections."""
    site = engines.provision(bench.apache, "single")
    gateways = {
        OURS: our_server(site),
        FASTAPI: fastapi_server(site),
        BLACKSHEEP: blacksheep_server(site),
        GO: go_server(site),
        RUST: rust_server(site),
    }
    with serving(gateways, site) as servers:
        for _ in range(bench.rounds):
            for connections in CONNECTIONS:
                for name, server in servers.items():
                    one = measure(server, site, singles(), connections, bench.seconds)
                    bench.note(f"single, {connections}", name, one)


def bulk(bench: Bench) -> None:
    """Arrays of updates, and lines, from a few clients."""
    site = engines.provision(bench.apache, "bulk")
    gateways = {
        OURS: our_server(site),
        FASTAPI: fastapi_server(site),
        GO: go_server(site),
        RUST: rust_server(site),
    }
    with serving(gateways, site) as servers:
        for _ in range(bench.rounds):
            for name, server in servers.items():
                _bulk(bench, "bulk", name, server, site, many(server.many))
            ours = servers[OURS]
            _bulk(bench, "bulk, NDJSON", OURS, ours, site, lines(ours.many))


def tansu(bench: Bench) -> None:
    """All of it on the embedded Kafka, with the naive view and the raw producer."""
    site = engines.provision(bench.tansu, "tansu").having(**DOOR)
    all_servers = {
        OURS: our_server(site),
        NAIVE: naive_server(site),
        FASTAPI: fastapi_server(site.having(IDEMPOTENT="0")),
    }
    with serving(all_servers, site) as servers:
        for _ in range(bench.rounds):
            _singles_on_tansu(bench, servers, site)
            for name in (*[OURS, RAW] * TURNS, FASTAPI):
                if name == RAW:
                    _raw(bench, "bulk on Tansu", site)
                else:
                    server = servers[name]
                    requests = many(server.many)
                    _bulk(bench, "bulk on Tansu", name, server, site, requests)
        probes(bench, servers[OURS])


def _singles_on_tansu(bench: Bench, servers: Mapping[str, Server], site: Site) -> None:
    """With a token too, beside clients that wait, and one at a time."""
    ours = servers[OURS]

    def note(name: str, server: Server, token: str = "") -> None:
        requests = singles(token)
        one = measure(server, site, requests, USUAL_CONNECTIONS, bench.seconds)
        bench.note("single on Tansu", name, one)

    for name, server in servers.items():
        note(name, server)
    note(WITH_TOKEN, ours, a_token())
    with waiting(ours):
        note(BESIDE_WAITERS, ours)
    for name in (OURS, FASTAPI):
        alone = measure(servers[name], site, singles(), 1, bench.seconds / 2)
        bench.note("one at a time on Tansu", name, alone)
    _raw(bench, "one at a time on Tansu", site.having(SINGLY="1"))


def _bulk(
    bench: Bench,
    scene: str,
    name: str,
    server: Server,
    site: Site,
    requests: Sequence[bytes],
) -> None:
    found = measure(server, site, requests, MANY_CONNECTIONS, bench.seconds, MANY)
    bench.note(scene, name, found)


def _raw(bench: Bench, scene: str, site: Site) -> None:
    """(e), of the same updates."""
    file = bench.directory / "updates.ndjson"
    file.write_bytes(b"\n".join(workload.updates(5000)))
    found = raw("raw_producer", site, str(file), str(bench.seconds))
    bench.note_raw(scene, RAW, found)


@contextmanager
def waiting(server: Server) -> Iterator[None]:
    """Clients that wait for an update which nobody applies, and ask again each second.

    As many as the server lets wait do so for the second; the others hear at once that
    too many wait.
    """
    posted = load.run(server.port, singles()[:1], 1, 60, most=1).last
    receipt = json.loads(posted)
    path = f"/patientprofile/{receipt['PatientId']}?receipt={receipt['Receipt']}&wait=1"
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            load.run(server.port, [load.get(path)], WAITERS, 60, most=WAITERS)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def probes(bench: Bench, server: Server) -> None:
    """How long the probes take while all connections post."""
    for connections in (64, 512):
        posting = threading.Thread(
            target=load.run, args=(server.port, singles(), connections, bench.seconds)
        )
        posting.start()
        time.sleep(bench.seconds / 4)
        for path in ("/livez", "/readyz"):
            probe = load.run(server.port, [load.get(path)], 1, bench.seconds / 4)
            if set(probe.answers) != {200}:
                raise RuntimeError(f"{path} answered {dict(probe.answers)}")
            name = f"{path} beside {connections} posting connections, ms"
            bench.figure(f"{name}, median", 1e3 * probe.latency(0.5))
            bench.figure(f"{name}, worst", 1e3 * probe.latency(1))
        posting.join()
