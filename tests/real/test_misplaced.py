"""A producer that places keys by another hash: nothing of it overtakes, nothing is lost.

librdkafka's default is CRC32. Its records of a patient stand in another partition than
ours, and no order is kept between partitions.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests
from confluent_kafka import KafkaError, Message, Producer

from tests import stack
from tests.engines.process import free_port, wait_until
from tests.stack import MANAGE, Stack, Web

pytestmark = pytest.mark.real

PATIENTS = [f"patient-{number}" for number in range(200)]

EARLIER_RELEASE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "patientsite.settings"
import django
django.setup()
from profiles.core import records
records.check_partition = lambda *_: None
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
"""`manage.py` of a release that applies a record wherever it stands."""

numbers = count(1)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack.real(tmp_path_factory.mktemp("misplaced")) as running:
        yield running


@dataclass(frozen=True)
class Spread:
    """A topic with an older update of each patient by CRC32, and a newer one by us."""

    stack: Stack
    table: str
    misplaced: dict[str, str]
    """Patient to receipt, of those that the two hashes put in different partitions."""

    def shown(self, **environ: str) -> dict[str, str]:
        """What each patient's item shows."""
        table = environ.get("DYNAMODB_TABLE", self.table)
        pages = self.stack.dynamodb().get_paginator("scan")
        return {
            item["PatientId"]["S"]: item["LastName"]["S"]
            for page in pages.paginate(TableName=table, ConsistentRead=True)
            for item in page["Items"]
        }

    def audit(self, **environ: str) -> tuple[int, dict[str, Any]]:
        """Exit code, and the findings that are of a patient or a record."""
        done = subprocess.run(
            [*MANAGE, "audit_profiles", "--json"],
            env={**self.stack.environ, **environ},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)["findings"]
        kinds = ("patients", "records")
        return done.returncode, {
            name: tuple(tally[kind] for kind in kinds)
            for name, tally in found.items()
            if any(tally[kind] for kind in kinds)
        }


@pytest.fixture
def spread(engines: Stack) -> Spread:
    name = f"spread-{next(numbers)}"
    names = {"KAFKA_TOPIC": name, "DYNAMODB_TABLE": name}
    on_topic = Stack(engines.directory, {**engines.environ, **names})
    on_topic.manage("provision")
    theirs = produced_by_crc32(on_topic, name)
    with on_topic.web() as web:
        web.wait_ready()
        ours = posted(web)
        web.stop()
    misplaced = {
        patient: f"{ours[patient]['Receipt'].split('.')[0]}.{partition}.{offset}"
        for patient, (partition, offset) in theirs.items()
        if partition != ours[patient]["Partition"]
    }
    assert 150 < len(misplaced) < 200  # of 12 partitions, both hashes share one
    return Spread(on_topic, name, misplaced)


def produced_by_crc32(on_topic: Stack, name: str) -> dict[str, tuple[int, int]]:
    """An update of each patient, as a producer puts it that is left as it comes."""
    places: dict[str, tuple[int, int]] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None
        patient = (message.key() or b"").decode()
        places[patient] = (message.partition() or 0, message.offset() or 0)

    producer = Producer({"bootstrap.servers": on_topic.bootstrap_servers})
    for patient in PATIENTS:
        value = json.dumps({"PatientId": patient, "LastName": "older"})
        producer.produce(name, value, patient, on_delivery=delivered)
    assert producer.flush(30) == 0
    return places


def posted(web: Web) -> dict[str, dict[str, Any]]:
    """A newer update of each patient, and its receipt."""
    updates = [{"PatientId": patient, "LastName": "newer"} for patient in PATIENTS]
    answer = requests.post(f"{web.url}/patientprofile", json=updates, timeout=10)
    assert answer.status_code == 202, answer.text
    return {receipt["PatientId"]: receipt for receipt in answer.json()}


def test_no_older_update_wins_by_another_partition_and_everybody_is_told(spread):
    port = str(free_port())
    environ = {**spread.stack.environ, "METRICS_PORT": port}
    with Stack(spread.stack.directory, environ).member("counted") as member:
        wait_until(lambda: len(spread.shown()) == 200, 60, "not all was applied")
        spread.stack.catch_up()
        metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        member.stop()
    older = [patient for patient, name in spread.shown().items() if name == "older"]
    assert len(older) == 0, f"{len(older)} patients end with the older value"

    letters = spread.stack.manage("dead_letters", "list").splitlines()[1:]
    wrong = [line.split() for line in letters if " wrong_partition: " in line]
    assert {line[0] for line in wrong} == {*spread.misplaced.values()}
    assert len(letters) == len(wrong) == len(spread.misplaced)

    counted = 'profile_records_dead_lettered_total{code="wrong_partition"}'
    assert f"{counted} {len(wrong)}.0" in metrics
    with spread.stack.web() as web:
        web.wait_ready()
        shown = f"{len(wrong)} of the newest {len(wrong)} dead letters were in a wrong"
        wait_until(lambda: shown in pipeline(web), 20, "the page says nothing")
        web.stop()

    code, found = spread.audit()
    expected = {"in_order": (200, 0), "dead_lettered": (0, len(wrong))}
    assert (code, found) == (0, expected)

    redriven = spread.stack.manage("dead_letters", "redrive", "--yes")
    assert redriven.startswith(f"0 of {len(wrong)} dead letters are valid now")
    assert f"{len(wrong)} more are left out" in redriven


def pipeline(web: Web) -> str:
    return " ".join(requests.get(f"{web.url}/pipeline/", timeout=10).text.split())


def test_what_an_earlier_release_applied_is_diverged_until_the_table_is_rebuilt(spread):
    subprocess.run(
        [
            sys.executable,
            "-c",
            EARLIER_RELEASE,
            "consume_profiles",
            "--until-caught-up",
        ],
        cwd=Path(MANAGE[1]).parent,
        env=spread.stack.environ,
        check=True,
        timeout=60,
    )
    wrong = len(spread.misplaced)
    code, found = spread.audit()
    expected = {"in_order": (200 - wrong, 0), "diverged": (wrong, wrong)}
    assert (code, found) == (1, expected)
    with spread.stack.web() as web:
        web.wait_ready()
        patient = next(iter(spread.misplaced))
        page = requests.get(f"{web.url}/profiles/{patient}/", timeout=10).text
        assert "which is not this patient" in page
        web.stop()

    table = f"{spread.table}-rebuilt"
    spread.stack.manage("rebuild_profiles", "--table", table)
    assert {*spread.shown(DYNAMODB_TABLE=table).values()} == {"newer"}
    code, found = spread.audit(DYNAMODB_TABLE=table)
    expected = {"in_order": (200, 0), "dead_lettered": (0, wrong)}
    assert (code, found) == (0, expected)
    # The old table keeps its values, wherever the records went meanwhile.
    code, found = spread.audit()
    assert (code, found["diverged"]) == (1, (wrong, 0))
