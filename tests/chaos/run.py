"""The fault run: real engines, many clients, seeded faults, and a judge at the end.

    CHAOS_SECONDS=300 CHAOS_SEED=1 python -m tests.chaos.run

Prints one table, writes var/chaos.json, and ends with exit code 1 on any damage. The
logs and the chronicle of the faults stay in var/chaos/.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from tests.chaos.clients import (
    IMPATIENT_S,
    PATIENT_S,
    Poster,
    Sampler,
    read_notes,
)
from tests.chaos.deployment import Deployment
from tests.chaos.faults import Chronicle, lanes
from tests.chaos.judge import judge
from tests.chaos.observed import (
    Observed,
    read_dead_letters,
    read_items,
    read_log,
)
from tests.chaos.report import Report
from tests.engines.jars import EnginesUnavailable
from tests.stack import ROOT, TABLE, TOPIC, Stack

GROUPS = 6
PATIENTS = 40
"""Of each group: its posters share them."""
PATIENCES_S = (PATIENT_S, PATIENT_S, PATIENT_S, IMPATIENT_S)
"""Of each group's posters."""
PERIOD_S = 0.08
SAMPLE_PERIOD_S = 0.01
SETTLE_S = 60
PARTITIONS = 12


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    seconds: int
    seed: int
    directory: Path

    @classmethod
    def from_environ(cls, directory: Path) -> Plan:
        seconds = int(os.environ.get("CHAOS_SECONDS") or 300)
        seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
        return cls(seconds, seed, directory)


def main() -> None:
    var = ROOT / "var"
    plan = Plan.from_environ(var / "chaos")
    sys.stdout.write(f"chaos: {plan.seconds} s, CHAOS_SEED={plan.seed}\n")
    sys.stdout.flush()
    shutil.rmtree(plan.directory, ignore_errors=True)
    plan.directory.mkdir(parents=True)
    try:
        report = run(plan)
    except EnginesUnavailable as missing:
        sys.exit(str(missing))
    except KeyboardInterrupt:
        sys.exit("Stopped: nothing was judged.")
    report.write(var / "chaos.json")
    sys.stdout.write(report.table())
    sys.exit(report.damaged)


def run(plan: Plan) -> Report:
    began = time.monotonic()
    with Deployment(plan.directory) as deployment:
        chronicle = Chronicle(plan.directory / "faults.log")
        posters, samplers = _clients(deployment, plan.seed, over := Event())
        harm = lanes(deployment, str(plan.seed), chronicle, over)
        _live([*posters, *samplers, *harm], plan.seconds, over)
        settled = deployment.settle(SETTLE_S)
        deployment.rest()
        observed = observe(deployment.stack, posters, samplers)
    return Report(
        judge(observed),
        answers=sum((poster.answers for poster in posters), Counter()),
        faults=chronicle.counts,
        settled=settled,
        seed=plan.seed,
        seconds=plan.seconds,
        wall_seconds=round(time.monotonic() - began),
    )


def _clients(
    deployment: Deployment, seed: int, over: Event
) -> tuple[list[Poster], list[Sampler]]:
    ports = [web.port for web in deployment.webs]
    endpoint_url = deployment.dynamodb.endpoint_url
    posters: list[Poster] = []
    samplers: list[Sampler] = []
    for group in range(GROUPS):
        patients = [f"group-{group}/patient-{number}" for number in range(PATIENTS)]
        for number, patience_s in enumerate(PATIENCES_S):
            name = f"client-{group}-{number}"
            choose = random.Random(f"{seed} {name}")
            facts = (ports, patients, patience_s, PERIOD_S, choose, over)
            posters.append(Poster(name, *facts))
        period_s = SAMPLE_PERIOD_S * GROUPS
        samplers.append(Sampler(endpoint_url, TABLE, patients, period_s, over))
    return posters, samplers


def _live(threads: Sequence[Thread], seconds: int, over: Event) -> None:
    for thread in threads:
        thread.start()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()


def observe(
    stack: Stack, posters: Sequence[Poster], samplers: Sequence[Sampler]
) -> Observed:
    """Read all that there is to judge; nothing may write any more."""
    return Observed(
        accepted=read_notes(posters, stack.directory / "accepted.jsonl"),
        log=read_log(stack.bootstrap_servers, TOPIC),
        dead_letters=read_dead_letters(stack.bootstrap_servers, f"{TOPIC}.dlq"),
        items=read_items(stack.dynamodb(), TABLE),
        partitions=PARTITIONS,
        samples=[sample for sampler in samplers for sample in sampler.samples],
    )


if __name__ == "__main__":
    main()
