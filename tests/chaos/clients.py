"""The clients of a fault run: those that post updates, those that sample items.

In: addresses, patients, a seed. Out: notes of what was accepted, and samples. A patient
has several posting clients and one sampler. Imports nothing of the product.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from threading import Event, Thread
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.chaos.observed import Accepted, Place, Sample, take_sample

FIELDS = ("FirstName", "LastName", "Phone", "Address")
PATIENT_S = 8.0
"""Longer than the service takes for its answer."""
IMPATIENT_S = 0.2


class Poster(Thread):
    """Posts updates of its patients, each body unlike every other one.

    It waits `patience_s` for its answer: a patient client for its 202, so that its
    updates of a patient have an order; an impatient one has several under way.
    """

    def __init__(
        self,
        name: str,
        ports: Sequence[int],
        patients: Sequence[str],
        patience_s: float,
        period_s: float,
        choose: random.Random,
        over: Event,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.accepted: list[Accepted] = []
        self.answers: Counter[str] = Counter()
        self._patients = patients
        self._patience_s = patience_s
        self._period_s = period_s
        self._choose = choose
        self._over = over
        self._ports = cycle(choose.sample(ports, len(ports)))
        self._connection = self._connect()
        self._posts = 0

    def run(self) -> None:
        while not self._over.wait(self._period_s * self._choose.uniform(0.5, 1.5)):
            self.post(self._patient())
        self.close()

    def close(self) -> None:
        self._connection.close()

    def post(self, patient: str, **fields: str | None) -> None:
        """Post once, and note what came of it."""
        self._posts += 1
        body = {"PatientId": patient, **(fields or self._fields())}
        sent = time.monotonic()
        try:
            status, answer = self._ask(json.dumps(body).encode())
        except (OSError, http.client.HTTPException):
            self.answers["unknown"] += 1
            self._connection.close()
            self._connection = self._connect()
            return
        self.answers[str(status)] += 1
        if status == 202:
            place = _place(answer["Receipt"])
            times = (sent, time.monotonic())
            self.accepted.append(Accepted(self.name, patient, body, place, *times))

    def _ask(self, body: bytes) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/patientprofile", body, headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def _connect(self) -> http.client.HTTPConnection:
        """To another web process than before."""
        return http.client.HTTPConnection(
            "127.0.0.1", next(self._ports), timeout=self._patience_s
        )

    def _patient(self) -> str:
        """One of its patients, the first ones often: many meet there."""
        few = self._patients[:2]
        return self._choose.choice(self._choose.choice((few, self._patients)))

    def _fields(self) -> dict[str, str | None]:
        """A field that tells client and post, and others that are set or removed."""
        first, *others = self._choose.sample(FIELDS, self._choose.randint(1, 3))
        value = f"{self.name}-{self._posts}"
        return {first: value} | {
            name: self._choose.choice((value, value, None)) for name in others
        }


class Sampler(Thread):
    """Reads its patients' items, one after the other, consistently."""

    def __init__(
        self,
        endpoint_url: str,
        table: str,
        patients: Sequence[str],
        period_s: float,
        over: Event,
    ) -> None:
        super().__init__(name="sampler", daemon=True)
        self.samples: list[Sample] = []
        self._dynamodb = boto3.client(
            "dynamodb",
            endpoint_url=endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(read_timeout=2, retries={"total_max_attempts": 1}),
        )
        self._table = table
        self._patients = cycle(patients)
        self._period_s = period_s
        self._over = over

    def run(self) -> None:
        while not self._over.wait(self._period_s):
            self.sample(next(self._patients))
        self._dynamodb.close()

    def sample(self, patient: str) -> None:
        """One read; while the table is away there is nothing to see."""
        try:
            self.samples.append(take_sample(self._dynamodb, self._table, patient))
        except (BotoCoreError, ClientError):
            self._over.wait(0.2)


def read_notes(posters: Sequence[Poster], notes: Path) -> list[Accepted]:
    """What all of them noted, kept in a file as well."""
    accepted = [each for poster in posters for each in poster.accepted]
    notes.write_text("".join(f"{each.to_line()}\n" for each in accepted))
    return accepted


def _place(receipt: str) -> Place:
    topic_id, partition, offset = receipt.rsplit(".", 2)
    return Place(topic_id, int(partition), int(offset))
