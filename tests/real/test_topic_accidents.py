"""What happens to topics by accident or from outside: applied, or refused in words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import astuple
from threading import Thread

import pytest
import requests
from confluent_kafka.admin import NewPartitions

from tests.chaos.observed import read_log
from tests.engines.kafka import java_produced, murmur2_partitions
from tests.engines.process import wait_until
from tests.real.scene import PARTITIONS, Scene
from tests.stack import Stack, Web

pytestmark = pytest.mark.real

GROWN = 2 * PARTITIONS
LAST_MS = 2**63 - 1


@pytest.fixture
def web(scene):
    """Ready to accept updates."""
    with scene.web() as web:
        yield web


def post(web: Web, patient: str, **fields: str) -> requests.Response:
    body = {"PatientId": patient, **fields}
    return requests.post(f"{web.url}/patientprofile", json=body, timeout=10)


def shows(scene: Scene, patient: str, name: str) -> bool:
    return scene.item(patient).get("LastName") == {"S": name}


def fences(scene: Scene, patient: str) -> dict[str, int]:
    item = scene.item(patient)
    return {name: int(item[name]["N"]) for name in item if name.startswith("_fence:")}


def test_a_recreated_topic_is_applied_though_its_offsets_begin_anew(scene, web):
    member = scene.joined()
    for number in range(20):
        assert post(web, "1", LastName=f"old-{number}").status_code == 202
    scene.settle()
    assert [*fences(scene, "1").values()] == [19]
    scene.delete_topic(scene.topic)
    scene.provision()
    wait_until(lambda: post(web, "1", LastName="new").status_code == 202, 30, "no 202")
    wait_until(lambda: shows(scene, "1", "new"), 60, "the update was not applied")
    after = fences(scene, "1")
    newest = {name for name in after if name.startswith(f"_fence:{scene.topic_id()}:")}
    assert len(newest) == 1
    assert after[newest.pop()] < 19
    assert member.running
    assert web.running


PATIENTS = [f"waiting-{number}" for number in range(6)]
AFTER = 40
"""Updates that each waiting client posts from the recreation on."""


class Waiting(Thread):
    """Posts one update of its patient after the other, each waited for."""

    def __init__(self, web: Web, patient: str) -> None:
        super().__init__(daemon=True)
        self.statuses: Counter[int] = Counter()
        self.untrue = 0
        self.receipts: dict[str, str] = {}
        self._web = web
        self._patient = patient

    def run(self) -> None:
        with requests.Session() as session:
            for number in range(AFTER):
                self._post(session, f"new-{number}")

    def _post(self, session: requests.Session, name: str) -> None:
        url, body = (
            f"{self._web.url}/patientprofile",
            {"PatientId": self._patient, "LastName": name},
        )
        wait = {"Prefer": "wait=3"}
        answer = session.post(url, json=body, headers=wait, timeout=20)
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            self.untrue += answer.json().get("LastName") != name
        elif answer.status_code == 202:
            self.receipts[answer.json()["Receipt"]] = name


def test_no_answer_is_untrue_after_a_topic_was_recreated(scene, web):
    """A receipt that named the topic that was would meet its higher fence at once."""
    scene.joined()
    old = [
        {"PatientId": p, "LastName": f"old-{n}"} for p in PATIENTS for n in range(60)
    ]
    url = f"{web.url}/patientprofile"
    assert requests.post(url, json=old, timeout=20).status_code == 202
    scene.settle()
    scene.delete_topic(scene.topic)
    waiting = [Waiting(web, patient) for patient in PATIENTS]
    scene.provision()
    for client in waiting:
        client.start()
    for client in waiting:
        client.join(120)
    statuses = sum((client.statuses for client in waiting), Counter())
    untrue = sum(client.untrue for client in waiting)
    sys.stdout.write(f"\nrecreated: {dict(statuses)}, untrue {untrue}\n")
    assert statuses[200] > 0
    assert untrue == 0
    on_topic = {
        f"{topic_id}.{partition}.{offset}": json.loads(value or b"{}")["LastName"]
        for (topic_id, partition, offset), _, _, value in map(
            astuple, read_log(scene.stack.bootstrap_servers, scene.topic)
        )
    }
    for client in waiting:
        assert client.receipts.items() <= on_topic.items()


def test_a_grown_topic_is_refused_and_a_new_one_drained_into_as_the_manual_says(scene):
    """docs/operations.md, 'Moving to a new topic'."""
    member = scene.joined()
    with scene.web() as web:
        answer = post(web, "1", FirstName="John", LastName="old")
        assert answer.status_code == 202
        home = answer.json()["Partition"]
        scene.settle()
        grown = NewPartitions(scene.topic, GROWN)
        scene.admin.create_partitions([grown])[scene.topic].result(10)
        says = f"has {GROWN} partitions and KAFKA_PARTITIONS is {PARTITIONS}"
        wait_until(lambda: post(web, "1").status_code == 503, 30, "no 503")
        refusal = post(web, "1")
        assert says in refusal.json()["detail"]
        assert refusal.headers["Retry-After"]
        assert requests.get(f"{web.url}/readyz", timeout=5).status_code == 503
        web.stop()
    assert member.exit_code(30) == 1
    for said in (says, "docs/operations.md"):
        assert said in member.last_line()

    # What came while it was found out, placed by the old count and by the new one
    late, stray = (
        (b"1", json.dumps({"PatientId": "1", "LastName": name}).encode())
        for name in ("late", "stray")
    )
    scene.produce([late], partition=home)
    (astray,) = scene.produce([stray])
    assert astray.partition() != home
    with pytest.raises(subprocess.CalledProcessError):
        scene.stack.catch_up()
    scene.stack.manage("consume_profiles", "--until-caught-up", "--grown")
    assert shows(scene, "1", "late")
    place = f"{scene.topic_id()}.{astray.partition()}.{astray.offset()}"
    assert f"{place}  wrong_partition: " in scene.stack.manage("dead_letters", "list")
    audited = scene.stack.manage("audit_profiles", "--grown")
    assert re.search(r"^in order +1$", audited, re.MULTILINE)
    value = scene.stack.manage("dead_letters", "show", place, "--values")

    new_topic = {"KAFKA_PARTITIONS": str(GROWN), "KAFKA_TOPIC": f"{scene.topic}-2"}
    new = Stack(scene.stack.directory, {**scene.stack.environ, **new_topic})
    new.manage("provision")
    scene.joined("mover", **new_topic)
    with scene.web(**new_topic) as web:
        assert post(web, "1", LastName="new").status_code == 202
        wait_until(lambda: shows(scene, "1", "new"), 30, "the update was not applied")
        assert scene.item("1")["FirstName"] == {"S": "John"}
        assert stray[1].decode() in value  # to be sent again by whoever decides so


def test_a_topic_that_was_grown_is_rebuilt_from_as_well(scene):
    scene.update("1", LastName="old")
    grown = NewPartitions(scene.topic, GROWN)
    scene.admin.create_partitions([grown])[scene.topic].result(10)
    rebuilt = f"{scene.table}-rebuilt"
    said = scene.stack.manage("rebuild_profiles", "--grown", "--table", rebuilt)
    assert f"DYNAMODB_TABLE={rebuilt}" in said
    (item,) = scene.dynamodb.scan(TableName=rebuilt)["Items"]
    assert item["LastName"] == {"S": "old"}


def test_javas_own_producer_and_ours_share_a_patients_partition(scene, web):
    scene.joined()
    patients = [f"patient-{number}" for number in range(40)]
    patients += ["Åsa/Ö", "患者-7", "🩺", "é", "é", " ", "a b", "x" * 128]
    records = [
        (patient.encode(), json.dumps({"PatientId": patient, "Sex": "Other"}).encode())
        for patient in patients
    ]
    theirs = java_produced(scene.stack.bootstrap_servers, scene.topic, records)
    answers = [post(web, patient, LastName="ours") for patient in patients]
    assert [answer.status_code for answer in answers] == [202] * len(patients)
    ours = [answer.json()["Partition"] for answer in answers]
    assert ours == theirs
    assert ours == murmur2_partitions((key for key, _ in records), PARTITIONS)
    scene.settle()
    items = scene.items()
    assert {items[patient]["Sex"]["S"] for patient in patients} == {"Other"}
    assert {items[patient]["LastName"]["S"] for patient in patients} == {"ours"}
    scene.assert_sound()


def test_hostile_records_are_dead_letters_and_the_rest_goes_on(scene):
    member = scene.joined()
    scene.set_config(scene.topic, "message.timestamp.type", "CreateTime")
    scene.set_config(scene.topic, "message.timestamp.after.max.ms", str(LAST_MS))
    valid = b'{"PatientId": "1"}'
    hostile = [
        (b"1", b"[" * 1_000_000),
        (b"1", b"[" * 60_000),
        (None, valid),
        (b"", valid),
        (b"1", None),
        (b"2", valid),
        (b"\xff\xfe", valid),
        (b"1", b'{"PatientId": "1", "PatientId": "2"}'),
    ]
    scene.produce(hostile)
    scene.produce([(b"1", valid)], timestamp=LAST_MS)
    scene.update("1")
    scene.settle()
    assert len(scene.dead_letters()) == len(hostile) + 1
    assert member.running
    scene.assert_sound()
