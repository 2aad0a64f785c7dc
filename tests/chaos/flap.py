"""The flap: a broker that freezes, is back for an instant, and freezes again.

    FLAP_ROUNDS=500 FLAP_LANES=8 python -m tests.chaos.flap

A round has one patient. M is sent as the broker freezes, A two seconds later, and U by
a client that has seen A. What stands on the topic twice was applied twice; where the
second A comes after U, it undid an accepted update. Lanes have a broker and two web
processes each, the second for U. Prints one line, and ends with exit code 1 on any damage.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

import requests
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.chaos.observed import Logged, read_log
from tests.engines.process import Engine
from tests.engines.real import KafkaCluster
from tests.stack import MANAGE, ROOT, TOPIC, Web, stack_on

PARTITIONS = 12
FROZEN_S = 4.0
BETWEEN_S = 2.0
THERE_S = (0.04, 0.3)
FROZEN_AGAIN_S = 0.9
SEEN_S = 15.0
LATE_S = 12.0
"""After so long nothing that was given up may still arrive."""


@dataclass
class Tally:
    """How many rounds there were, and how many show what."""

    rounds: int = 0
    accepted: int = 0
    twice: int = 0
    accepted_twice: int = 0
    lost: int = 0

    @property
    def damaged(self) -> bool:
        return bool(self.twice or self.lost)

    def add(self, other: Tally) -> None:
        for each in fields(Tally):
            total = getattr(self, each.name) + getattr(other, each.name)
            setattr(self, each.name, total)

    def __str__(self) -> str:
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(Tally))


@dataclass
class Round:
    """What the clients of one round saw: which updates were answered with 202."""

    patient: str
    accepted: set[str] = field(default_factory=set)

    def judge(self, log: Sequence[Logged]) -> Tally:
        values = [
            json.loads(record.value or b"{}").get("LastName")
            for record in log
            if record.key == self.patient.encode()
        ]
        copies = Counter(values)
        twice = {value for value, count in copies.items() if count > 1}
        lost = "U" in self.accepted and (not values or values[-1] != "U")
        return Tally(
            rounds=1,
            accepted=len(self.accepted),
            twice=bool(twice),
            accepted_twice=bool(twice & self.accepted),
            lost=lost,
        )


class Lane:
    """A broker and a web process, and the rounds that they are put through."""

    def __init__(self, directory: Path, seed: str, manage: Sequence[str]) -> None:
        self._choose = random.Random(seed)
        self._kafka = KafkaCluster(directory)
        self._servers = self._kafka.bootstrap_servers
        stack = stack_on(directory, self._servers, "http://127.0.0.1:1")
        self._webs = [
            Web(directory, stack.environ, name, manage) for name in ("web", "other-web")
        ]
        self._reader = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "follower",  # never joined
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )

    def run(self, rounds: int) -> Tally:
        with self._kafka:
            self._make_topic()
            with self._webs[0], self._webs[1]:
                played = [self._play(f"patient-{n}") for n in range(rounds)]
                time.sleep(LATE_S)
            self._reader.close()
            log = read_log(self._servers, TOPIC)
        tally = Tally()
        for each in played:
            tally.add(each.judge(log))
        return tally

    def _play(self, patient: str) -> Round:
        played, broker = Round(patient), self._kafka.brokers[0]
        for web in self._webs:
            self._post_until_accepted(web, f"{patient}-before")
        while self._reader.consume(100, 0.2):
            pass
        with ThreadPoolExecutor(3) as clients:
            broker.suspend()
            web = self._webs[0]
            posts = {"M": clients.submit(post, web, patient, "M")}
            time.sleep(BETWEEN_S)
            posts["A"] = clients.submit(post, web, patient, "A")
            follows = clients.submit(self._follow, patient)
            time.sleep(FROZEN_S - BETWEEN_S)
            self._flap(broker)
            played.accepted |= _accepted(posts)
            played.accepted |= {"U"} if follows.result() else set()
        return played

    def _flap(self, broker: Engine) -> None:
        broker.resume()
        time.sleep(self._choose.uniform(*THERE_S))
        broker.suspend()
        time.sleep(FROZEN_AGAIN_S)
        broker.resume()

    def _follow(self, patient: str) -> bool:
        """Post U once A is on the topic; whether both came about."""
        return self._sees_a(patient) and post(self._webs[1], patient, "U")

    def _sees_a(self, patient: str) -> bool:
        """Whether A arrives; the reader has met the end before the broker froze."""
        until = time.monotonic() + SEEN_S
        while time.monotonic() < until:
            for message in self._reader.consume(1, 0.05):
                is_hers = message.key() == patient.encode()
                if is_hers and json.loads(message.value() or b"")["LastName"] == "A":
                    return True
        return False

    def _make_topic(self) -> None:
        admin = AdminClient({"bootstrap.servers": self._servers, "log_level": 0})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
        self._reader.assign(
            [TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(PARTITIONS)]
        )

    def _post_until_accepted(self, web: Web, patient: str) -> None:
        until = time.monotonic() + 60
        while not post(web, patient, "W"):
            if time.monotonic() > until:
                raise TimeoutError("nothing was accepted for 60 s")


def post(web: Web, patient: str, name: str) -> bool:
    """Whether the update was accepted."""
    body = {"PatientId": patient, "LastName": name}
    url = f"{web.url}/patientprofile"
    return requests.post(url, json=body, timeout=20).status_code == 202


def _accepted(posts: dict[str, Future[bool]]) -> set[str]:
    return {name for name, answer in posts.items() if answer.result()}


def flap(
    directory: Path, rounds: int, lanes: int, manage: Sequence[str] = MANAGE
) -> Tally:
    """Play the rounds, shared out among lanes."""
    tally = Tally()
    with ThreadPoolExecutor(lanes) as side_by_side:
        runs = [
            side_by_side.submit(
                Lane(directory / f"lane-{n}", f"lane {n}", manage).run,
                rounds // lanes + (n < rounds % lanes),
            )
            for n in range(lanes)
        ]
        for run in runs:
            tally.add(run.result())
    return tally


def main() -> None:
    rounds = int(os.environ.get("FLAP_ROUNDS") or 500)
    lanes = int(os.environ.get("FLAP_LANES") or 8)
    directory = ROOT / "var" / "flap"
    shutil.rmtree(directory, ignore_errors=True)
    tally = flap(directory, rounds, lanes)
    sys.stdout.write(f"flap: {tally}\n")
    sys.exit(tally.damaged)


if __name__ == "__main__":
    main()
