"""The outage scene: Kafka and DynamoDB away, and what that leaves in web and consumer.

In: a Bench. Out: figures. A shorter `make outage`, of one case: both engines killed,
while updates are posted.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from threading import Thread

from benchmarks.bench import Bench
from tests.chaos.outage import AFTER, AWAY, BEFORE, PROCESSES, Case, Outage
from tests.engines.real import DynamoDBLocal, KafkaCluster
from tests.stack import TABLE, stack_on

CALM_S, AWAY_S, SAMPLE_S = 10.0, 45.0, 1.0
GAINED = {process: f"threads gained in {process}" for process in PROCESSES}


def scene(bench: Bench) -> None:
    """On engines of its own, which are killed for a while."""
    directory = bench.directory / "outage"
    with ExitStack() as ends:
        cluster = ends.enter_context(KafkaCluster(directory))
        dynamodb = ends.enter_context(DynamoDBLocal(directory))
        stack = stack_on(directory, cluster.bootstrap_servers, dynamodb.endpoint_url)
        stack = replace(stack, environ={**stack.environ, "DYNAMODB_TABLE": TABLE})
        outages = [Outage(cluster.brokers[0], "killed"), Outage(dynamodb, "killed")]
        case = Case("both killed, trickle", stack, outages)
        case.start(ends)
        _live(case, outages)
        _note(bench, case)


def _live(case: Case, outages: list[Outage]) -> None:
    _sample(case, BEFORE, CALM_S)
    for outage in outages:
        outage.begin()
    life = Thread(target=case.live, daemon=True)
    life.start()
    _sample(case, AWAY, AWAY_S)
    for outage in outages:
        outage.end()
    life.join()
    _sample(case, AFTER, CALM_S)


def _sample(case: Case, phase: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(SAMPLE_S)
        case.sample(phase)


def _note(bench: Bench, case: Case) -> None:
    for process in PROCESSES:
        before, *later = (case.samples[process, p][-1] for p in (BEFORE, AWAY, AFTER))
        threads = max(each.threads for each in later) - before.threads
        descriptors = max(each.descriptors for each in later) - before.descriptors
        bench.figure(GAINED[process], threads)
        bench.figure(f"descriptors gained in {process}", descriptors)
    bench.figure(
        "from the outage's end to the first accepted update, s", case.first_202_s
    )
    bench.figure("from the outage's end to all updates applied, s", case.applied_s)
    bench.figure("accepted updates missing after the outage", case.missing())
