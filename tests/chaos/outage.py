"""The outage run: engines away for long, and what that leaves in web and consumer.

    OUTAGE_SECONDS=900 python -m tests.chaos.outage

Kafka, DynamoDB or both are away, killed or suspended, each for a web process and a
consumer of its own that may open 256 descriptors. Prints one table, and ends with exit
code 1 where a process grew, where no update was accepted within 10 s of the end, or
where an accepted one is missing. The logs stay in var/outage/. Imports nothing of the
product.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Event, Thread

import requests

from tests.chaos.observed import read_items
from tests.engines.jars import EnginesUnavailable
from tests.engines.process import Engine, wait_until
from tests.engines.real import Broker, DynamoDBLocal, KafkaCluster
from tests.stack import MANAGE, ROOT, Member, Stack, Web, stack_on

FAULTS = ("killed", "suspended")
LIMITED = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *MANAGE]
PROCESSES = ("web", "consumer")
BEFORE, AWAY, AFTER = PHASES = ("before", "away", "after")

CALM_S = 40.0
"""How long it is looked at before and after: a server's idle threads end in 30 s."""
SAMPLE_S = 5.0
TRICKLE_S = 1.0
RETRY_S = 0.2
LOOK_S = 0.5
"""Before each look at a table: twelve of them at once cost more than the service."""
ANSWER_S = 10.0
LOST_S = 120.0
"""After which what is not accepted, or not applied, never is."""

ACCEPTED_S = 10.0
"""In which the first update is to be accepted after the end."""
GROWTH = 10
"""Threads or descriptors more than before that are no leak: a server's pool varies."""


@dataclass(frozen=True)
class Sample:
    """What a process holds, its children included, and the CPU that it has used."""

    threads: int
    descriptors: int
    cpu_s: float


class Outage:
    """One engine that goes away, and comes back."""

    def __init__(self, engine: Engine, fault: str) -> None:
        self.back = Event()
        self.back_at = 0.0
        self._engine = engine
        self._fault = fault

    def begin(self) -> None:
        if self._fault == "killed":
            self._engine.kill()
        else:
            self._engine.suspend()

    def end(self) -> None:
        """Over once the engine answers."""
        if self._fault == "killed":
            self._engine.start()
        else:
            self._engine.resume()
        self._engine.wait_ready(LOST_S)
        self.back_at = time.monotonic()
        self.back.set()


class Case:
    """A web process and a consumer, in one outage or in two at a time."""

    def __init__(self, name: str, stack: Stack, outages: Sequence[Outage]) -> None:
        self.name = name
        self.samples: dict[tuple[str, str], list[Sample]] = {
            (process, phase): [] for process in PROCESSES for phase in PHASES
        }
        self.first_202_s = self.applied_s = LOST_S
        self._trickles = name.endswith("trickle")
        self._stack = stack
        self._outages = outages
        self._accepted: set[str] = set()
        self._numbers = count(1)
        self._web = Web(stack.directory, stack.environ, manage=LIMITED)
        self._member = Member(stack.directory, stack.environ, "consumer", LIMITED)

    def start(self, ends: ExitStack) -> None:
        """Return once an update has gone all the way."""
        self._stack.manage("provision")
        ends.enter_context(self._web)
        ends.enter_context(self._member)
        wait_until(self._post, LOST_S, f"{self.name}: nothing was accepted")
        wait_until(self._is_applied, LOST_S, f"{self.name}: nothing was applied")
        if self._trickles:
            self._show("/pipeline/")  # its readings are there before as well

    def sample(self, phase: str) -> None:
        for name, process in zip(PROCESSES, (self._web, self._member), strict=True):
            self.samples[name, phase].append(_sample(process.pid))

    def live(self) -> None:
        """Through the outages, and until all that was accepted is applied."""
        while not all(outage.back.wait(TRICKLE_S) for outage in self._outages):
            if self._trickles:
                self._post()
                self._show("/pipeline/")
        ended_at = max(outage.back_at for outage in self._outages)
        with suppress(TimeoutError):
            wait_until(self._post, LOST_S, "nothing was accepted")
            self.first_202_s = time.monotonic() - ended_at
            wait_until(self._is_applied, LOST_S, "an update was not applied")
            self.applied_s = time.monotonic() - ended_at

    def missing(self) -> int:
        """How many accepted updates the table does not have."""
        table = self._stack.environ["DYNAMODB_TABLE"]
        items = read_items(self._stack.dynamodb(), table)
        return len(self._accepted - items.keys())

    def _is_applied(self) -> bool:
        time.sleep(LOOK_S)
        return not self.missing()

    def _show(self, page: str) -> None:
        with suppress(requests.RequestException):
            requests.get(self._web.url + page, timeout=ANSWER_S)

    def _post(self) -> bool:
        """Post for a patient of its own; whether it was accepted."""
        patient = f"patient-{next(self._numbers)}"
        url, body = f"{self._web.url}/patientprofile", {"PatientId": patient}
        with suppress(requests.RequestException):
            if requests.post(url, json=body, timeout=ANSWER_S).status_code == 202:
                self._accepted.add(patient)
                return True
        time.sleep(RETRY_S)
        return False


def main() -> None:
    seconds = int(os.environ.get("OUTAGE_SECONDS") or 900)
    directory = ROOT / "var" / "outage"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        with ExitStack() as ends:
            cases = run(directory, seconds, ends)
            is_sound = _report(cases)
    except EnginesUnavailable as missing:
        sys.exit(str(missing))
    except KeyboardInterrupt:
        sys.exit("Stopped: nothing was judged.")
    sys.exit(not is_sound)


def run(directory: Path, seconds: float, ends: ExitStack) -> list[Case]:
    """All cases beside each other: what is away needs no CPU."""
    steady = _engines(directory / "steady", ends)
    outages: list[Outage] = []
    cases: list[Case] = []
    for fault in FAULTS:
        broker, dynamodb = _engines(directory / fault, ends)
        kafka_away, table_away = Outage(broker, fault), Outage(dynamodb, fault)
        outages += [kafka_away, table_away]
        for what, kafka, table, away in (
            ("Kafka", broker, steady[1], [kafka_away]),
            ("DynamoDB", steady[0], dynamodb, [table_away]),
            ("both", broker, dynamodb, [kafka_away, table_away]),
        ):
            for load in ("idle", "trickle"):
                name = f"{what} {fault}, {load}"
                stack = _stack(directory, name, kafka, table)
                cases.append(Case(name, stack, away))
    for case in cases:
        case.start(ends)
    _say(f"{len(cases)} cases are up.\n")
    _go_through(outages, cases, seconds)
    return cases


def _engines(directory: Path, ends: ExitStack) -> tuple[Broker, DynamoDBLocal]:
    kafka = ends.enter_context(KafkaCluster(directory))
    return kafka.brokers[0], ends.enter_context(DynamoDBLocal(directory))


def _stack(
    directory: Path, name: str, broker: Broker, dynamodb: DynamoDBLocal
) -> Stack:
    """With a topic, a table and a folder of its own."""
    own = name.replace(",", "").replace(" ", "-").lower()
    (directory / own).mkdir()
    stack = stack_on(directory / own, broker.address, dynamodb.endpoint_url)
    environ = {**stack.environ, "KAFKA_TOPIC": own, "DYNAMODB_TABLE": own}
    return Stack(stack.directory, environ)


def _go_through(
    outages: Sequence[Outage], cases: Sequence[Case], seconds: float
) -> None:
    _look(cases, BEFORE, CALM_S)
    for outage in outages:
        outage.begin()
    lives = [_started(case.live) for case in cases]
    _say(f"Away for {seconds:.0f} s.\n")
    _look(cases, AWAY, seconds)
    for end in [_started(outage.end) for outage in outages]:
        end.join()
    for life in lives:
        life.join()
    _look(cases, AFTER, CALM_S)


def _started(what: Callable[[], None]) -> Thread:
    thread = Thread(target=what, daemon=True)
    thread.start()
    return thread


def _look(cases: Sequence[Case], phase: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        time.sleep(min(left_s, SAMPLE_S))
        for case in cases:
            case.sample(phase)


def _sample(leader: int) -> Sample:
    """Of a process and all that it started, which are its group."""
    threads = descriptors = ticks = 0
    for proc in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # From the state on; see proc(5).
            stat = (proc / "stat").read_text().rpartition(")")[2].split()
            if int(stat[2]) == leader:
                threads += len([*(proc / "task").iterdir()])
                descriptors += len([*(proc / "fd").iterdir()])
                ticks += sum(map(int, stat[11:13]))
    return Sample(threads, descriptors, ticks / os.sysconf("SC_CLK_TCK"))


def _report(cases: Sequence[Case]) -> bool:
    """Print a line for each process; whether all is well."""
    three = f"{'before':>6} {'end':>4} {'after':>5}"
    _say(f"{'':36} {'threads':>17} {'descriptors':>17} {'CPU':>5} {'first':>6}\n")
    _say(f"{'':36} {three} {three} {'s':>5} {'202, s':>6} applied, s  missing\n")
    told = [_told(case, process) for case in cases for process in PROCESSES]
    return all(told)


def _told(case: Case, process: str) -> bool:
    first, *_ = away = case.samples[process, AWAY]
    three = [case.samples[process, phase][-1] for phase in PHASES]
    missing = case.missing()
    _say(
        f"{case.name:27} {process:8} {_figures([each.threads for each in three])} "
        f"{_figures([each.descriptors for each in three])} "
        f"{away[-1].cpu_s - first.cpu_s:5.1f} {case.first_202_s:6.1f} "
        f"{case.applied_s:10.1f}  {missing:7}\n"
    )
    is_flat = all(
        0 < each.threads <= three[0].threads + GROWTH
        and each.descriptors <= three[0].descriptors + GROWTH
        for each in three
    )
    return is_flat and case.first_202_s <= ACCEPTED_S and not missing


def _figures(three: Sequence[int]) -> str:
    before, end, after = three
    return f"{before:6} {end:4} {after:5}"


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
