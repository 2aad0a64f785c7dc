"""The ingest scenes: updates over HTTP until Kafka has acknowledged them.

In: a Bench. Out: measures in its book.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import jwt

from benchmarks import load, workload
from benchmarks.bench import TURNS, Bench
from benchmarks.book import Measure
from benchmarks.contenders import (
    Server,
    fastapi_server,
    naive_server,
    our_server,
    raw,
)

OURS, NAIVE, FASTAPI = "project", "(a) naive Django", "(b) FastAPI"
RAW = "(e) raw librdkafka"
WITH_TOKEN, BESIDE_WAITERS = "project, with a token", "project, beside 32 that wait"
WAITERS = 32
KEY = secrets.token_urlsafe(32)
DOOR = {"JWT_ISSUER": "bench", "JWT_AUDIENCE": "bench", "JWT_LOCAL_KEY": KEY}
"""A token that is sent counts; who sends none is let in, as in development."""
CONNECTIONS = 64
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


@contextmanager
def serving(servers: dict[str, Server]) -> Iterator[dict[str, Server]]:
    """The servers, started one after the other."""
    with ExitStack() as running:
        for server in servers.values():
            running.enter_context(server)
        yield servers


def measure(
    server: Server,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    size: int = 1,
) -> Measure:
    """Warm the server up, then load it; every answer has to be a 202."""
    load.run(server.port, requests, connections, min(1, seconds / 4))
    cpu = server.cpu_s()
    done = load.run(server.port, requests, connections, seconds)
    used = server.cpu_s() - cpu
    if set(done.answers) != {202}:
        raise RuntimeError(f"{server.name} answered {dict(done.answers)}")
    return Measure(
        done.answers[202] * size,
        done.seconds,
        used,
        done.latency(0.5),
        done.latency(0.99),
    )


def scenes(bench: Bench) -> None:
    """Single updates, arrays, unloaded latency, and the probes, on the same servers."""
    site = bench.provision("ingest").having(**DOOR)
    token = a_token()
    servers = {
        OURS: our_server(site),
        NAIVE: naive_server(site),
        FASTAPI: fastapi_server(site),
    }
    lines = bench.directory / "updates.ndjson"
    lines.write_bytes(b"\n".join(workload.updates(5000)))
    with serving(servers):
        for _ in range(bench.rounds):
            for name, server in servers.items():
                one = measure(server, singles(), CONNECTIONS, bench.seconds)
                bench.note("single", name, one)
            own = measure(servers[OURS], singles(token), CONNECTIONS, bench.seconds)
            bench.note("single", WITH_TOKEN, own)
            with waiting(servers[OURS]):
                own = measure(servers[OURS], singles(), CONNECTIONS, bench.seconds)
            bench.note("single", BESIDE_WAITERS, own)
            for name in (*[OURS, RAW] * TURNS, FASTAPI):
                if name == RAW:
                    found = raw("raw_producer", site, str(lines), str(bench.seconds))
                    bench.note_raw("bulk", RAW, found)
                else:
                    _bulk(bench, name, servers[name])
            for name in (OURS, FASTAPI):
                alone = measure(servers[name], singles(), 1, bench.seconds / 2)
                bench.note("one at a time", name, alone)
            singly = site.having(SINGLY="1")
            found = raw("raw_producer", singly, str(lines), str(bench.seconds / 2))
            bench.note_raw("one at a time", RAW, found)
        probes(bench, servers[OURS])


def _bulk(bench: Bench, name: str, server: Server) -> None:
    """Arrays, from a few clients."""
    requests = many(server.many)
    bulk = measure(server, requests, MANY_CONNECTIONS, bench.seconds, MANY)
    bench.note("bulk", name, bulk)


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
            bench.book.notes[f"{name}, median"] = 1e3 * probe.latency(0.5)
            bench.book.notes[f"{name}, worst"] = 1e3 * probe.latency(1)
        posting.join()
