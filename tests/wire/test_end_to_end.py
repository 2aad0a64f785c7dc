"""From POST to the table and the page, over the wire, with crashes on the way.

Runs on the embedded engines, and on the real ones with `--engines=real`. Imports
nothing of the product.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

import pytest
import requests
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    Producer,
    TopicPartition,
)

from tests import stack
from tests.engines.process import Engine, wait_until
from tests.stack import Stack, Web

pytestmark = pytest.mark.stack

ORIGINAL = (
    '{ "PatientId": "1", "FirstName": "John", "LastName": "Doe", '
    '"IsPregnant": "False", "Sex": "Female"}'
)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    start = {"embedded": stack.embedded, "real": stack.real}
    directory: Path = tmp_path_factory.mktemp("stack")
    with start[request.config.getoption("--engines")](directory) as engines:
        yield engines


@pytest.fixture(scope="module")
def web(running: Stack) -> Iterator[Web]:
    with running.web() as process:
        yield process
        process.stop()


patient_numbers = count(1)

Bodies = SimpleQueue[dict[str, Any] | None]
Log = dict[str, dict[int, dict[str, Any]]]


@pytest.fixture
def patient() -> str:
    """A PatientId that no other test uses."""
    return f"patient/{next(patient_numbers)}"


def post(web: Web, body: Any) -> requests.Response:
    return requests.post(f"{web.url}/patientprofile", json=body, timeout=10)


def accepted(web: Web, body: Any) -> Any:
    answer = post(web, body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_the_original_curl_reaches_the_table_and_the_page(running, web):
    answer = requests.post(
        f"http://0.0.0.0:{web.port}/patientprofile",
        data=ORIGINAL,
        headers=JSON,
        timeout=10,
    )
    assert answer.status_code == 202
    assert answer.headers["Location"] == "/patientprofile/1"
    running.catch_up()
    item = running.items()["1"]
    topic_id, partition, offset = answer.json()["Receipt"].rsplit(".", 2)
    assert item.pop(f"_fence:{topic_id}:{partition}") == offset
    assert item.pop("_incarnation").startswith(f"{topic_id} ")
    assert item.pop("UpdatedAt").endswith("+00:00")
    assert item == {
        "PatientId": "1",
        "FirstName": "John",
        "LastName": "Doe",
        "IsPregnant": "False",
        "Sex": "Female",
    }
    page = requests.get(f"{web.url}/profiles/?q=1", timeout=10)
    assert "John" in page.text
    detail = requests.get(f"{web.url}/profiles/1/", timeout=10)
    assert "Doe" in detail.text
    stored = requests.get(web.url + answer.headers["Location"], timeout=10).json()
    assert stored["Sex"] == "Female"


def test_the_timeline_ends_with_the_last_record_of_a_batch(web, patient):
    """The embedded broker's ListOffsets reports the end one batch too low."""
    updates = [{"PatientId": patient, "Phone": str(n)} for n in range(50)]
    receipts = accepted(web, updates)
    page = requests.get(f"{web.url}/profiles/{quote(patient, safe='')}/", timeout=10)
    shown = [int(offset) for offset in re.findall(r'<tr data-key="(\d+)"', page.text)]
    assert shown == [receipt["Offset"] for receipt in reversed(receipts)]


def test_only_the_given_fields_change_and_null_removes(running, web, patient):
    accepted(web, {"PatientId": patient, "FirstName": "A", "LastName": "B"})
    accepted(web, {"PatientId": patient, "LastName": "C"})
    accepted(web, {"PatientId": patient, "FirstName": None, "Phone": "1"})
    running.catch_up()
    item = running.items()[patient]
    assert "FirstName" not in item
    assert (item["LastName"], item["Phone"]) == ("C", "1")


def test_updates_of_one_patient_share_a_partition_in_order(web, patient):
    receipts = [accepted(web, {"PatientId": patient}) for _ in range(5)]
    assert len({receipt["Partition"] for receipt in receipts}) == 1
    offsets = [receipt["Offset"] for receipt in receipts]
    assert offsets == sorted(set(offsets))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 30_000, 400),
        (b'{"PatientId": "1", "PatientId": "2"}', 400),
        (b'{"PatientId": NaN}', 400),
        (b'{"PatientId": "\\ud800"}', 400),
        (b'{"PatientId": "1", "Shoe": "44"}', 400),
        (b"\xff\xfe", 400),
        (b"", 400),
        (b" " * 70_000, 413),
        (b" " * 10_000_000, 413),
    ],
    ids=["nested", "duplicate", "nan", "surrogate", "unknown", "bytes", "empty"]
    + ["65k", "10M"],
)
def test_garbage_is_a_clear_refusal(web, body, status):
    answer = requests.post(
        f"{web.url}/patientprofile", data=body, headers=JSON, timeout=10
    )
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_what_is_no_update_goes_to_the_dead_letter_topic_untouched(running, patient):
    producer = Producer(
        {
            "bootstrap.servers": running.bootstrap_servers,
            "partitioner": "murmur2_random",
        }
    )
    key = patient.encode()
    producer.produce("patient-profile", b"not JSON", key, headers={"origin": b"x"})
    producer.produce("patient-profile", b'{"PatientId": "someone else"}', key)
    assert producer.flush(10) == 0
    running.catch_up()
    letters = read_all(running, "patient-profile.dlq", 1)
    ours = [letter for letter in letters if letter.key() == key]
    assert [letter.value() for letter in ours] == [
        b"not JSON",
        b'{"PatientId": "someone else"}',
    ]
    headers = [dict(letter.headers()) for letter in ours]
    assert headers[0]["origin"] == b"x"
    assert headers[0]["dead-letter.topic"] == b"patient-profile"
    assert headers[0]["dead-letter.code"] == b"not_json"
    assert headers[1]["dead-letter.code"] == b"key_mismatch"
    assert patient not in running.items()


def test_consumers_share_the_partitions_and_leave_on_sigterm(running, web):
    # A group of their own: if members leave while others join, the embedded broker may
    # never assign partitions in that group again.
    shared = running.in_group("shared")
    with shared.member("first") as first, shared.member("second") as second:
        patients = [f"shared-{number}" for number in range(50)]
        for name in patients:
            accepted(web, {"PatientId": name, "FirstName": "A"})
        shared.catch_up()
        assert set(patients) <= running.items().keys()
        for member in (first, second):
            member.stop()
            assert b"batch: " in member.log.read_bytes()


def test_every_item_is_the_fold_of_what_was_accepted_though_consumers_die(running, web):
    posts, kills = 5_000, 5
    bodies: Bodies = SimpleQueue()
    log: Log = defaultdict(dict)
    choose = random.Random(1)
    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(post_all, web, bodies, log) for _ in range(8)]
        for life in range(kills):
            for _ in range(posts // kills):
                bodies.put(an_update(choose, patients=500))
            kill_after_its_first_batch(running.member(f"victim-{life}"))
        for _ in clients:
            bodies.put(None)
        for finished in clients:
            finished.result()
    running.catch_up()

    assert sum(len(updates) for updates in log.values()) == posts
    items = running.items()
    for name, updates in log.items():
        assert shown(items[name]) == fold(updates), name


def post_all(web: Web, bodies: Bodies, log: Log) -> None:
    """Post until None comes, and keep each accepted body by its offset."""
    with requests.Session() as session:
        while (body := bodies.get()) is not None:
            url = f"{web.url}/patientprofile"
            answer = session.post(url, json=body, timeout=10)
            assert answer.status_code == 202, answer.text
            log[body["PatientId"]][answer.json()["Offset"]] = body


def kill_after_its_first_batch(member: Engine) -> None:
    member.start()
    wait_until(lambda: b"batch: " in member.log.read_bytes(), 30, "no batch")
    member.kill()


def an_update(choose: random.Random, patients: int) -> dict[str, Any]:
    fields = ("FirstName", "LastName", "Phone", "Address")
    chosen = choose.sample(fields, choose.randint(1, 3))
    values = [None, *(f"value {number}" for number in range(50))]
    name = f"fold-{choose.randrange(patients)}"
    return {"PatientId": name, **{field: choose.choice(values) for field in chosen}}


def fold(updates: dict[int, dict[str, Any]]) -> dict[str, str]:
    profile: dict[str, Any] = {}
    for offset in sorted(updates):
        profile |= updates[offset]
    return {name: value for name, value in profile.items() if value is not None}


def shown(item: dict[str, str]) -> dict[str, str]:
    ours = ("_", "UpdatedAt")
    return {name: text for name, text in item.items() if not name.startswith(ours)}


def read_all(running: Stack, topic: str, partitions: int) -> list[Any]:
    """Every record of a topic, read to the end of each partition."""
    reader = Consumer(
        {
            "bootstrap.servers": running.bootstrap_servers,
            "group.id": "test-reader",
            "enable.partition.eof": True,
        }
    )
    # Assigned, not subscribed: joining a group takes half a session timeout on Tansu.
    places = [TopicPartition(topic, at, OFFSET_BEGINNING) for at in range(partitions)]
    reader.assign(places)
    records, open_partitions = [], set(range(partitions))
    try:
        while open_partitions:
            for message in reader.consume(100, 1):
                if (error := message.error()) is None:
                    records.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(message.partition())
    finally:
        reader.close()
    return records
