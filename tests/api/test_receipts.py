"""Receipts: a client can know that its update is in the profile."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from profiles.api import posting
from profiles.core import items, records, updates
from profiles.core.updates import Receipt, Source
from profiles.dynamodb import reader, writer
from profiles.dynamodb.client import StoreUnavailable
from profiles.dynamodb.reader import TableReader
from profiles.kafka import topics
from tests.api.test_api import problem
from tests.engines.kafka import murmur2_partitions
from tests.fakes import OURS, EitherWay, update_at

TOPIC = topics.Topic("patient-profile", "topic-1", 12)
PATIENT = "1"
SOURCE = Source(TOPIC.id, records.partition_of(PATIENT, 12))

pytestmark = pytest.mark.usefixtures("either_way")


class Table:
    """Shows each of these items once, then the last for ever."""

    def __init__(self, *shown: items.Item | None) -> None:
        self.shown = [*shown]
        self.looks = 0

    def get_item(self, **_: Any) -> dict[str, Any]:
        self.looks += 1
        item = self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]
        return {"Item": item} if item else {}


def item(offset: int, **fields: str) -> Any:
    shown = {name: {"S": value} for name, value in fields.items()}
    fence = {items.fence_name(SOURCE): {"N": str(offset)}}
    return {"PatientId": {"S": PATIENT}, **shown, **fence}


@pytest.fixture
def table(monkeypatch):
    """Puts a table behind the reads; 41 is the offset of whatever is posted."""

    class Publisher(EitherWay):
        def publish_all(self, posted, headers):
            return [Receipt(SOURCE, 41) for _ in posted]

    def put(*shown: items.Item | None, waiters: int = 2) -> Table:
        table = Table(*shown)
        client: Any = table
        profiles = TableReader(client, "t", waiters=waiters)
        monkeypatch.setattr(reader, "profiles", lambda: profiles)
        return table

    watch_topics(monkeypatch, TOPIC)
    monkeypatch.setattr(posting, "publisher", Publisher)
    monkeypatch.setattr(reader, "_pauses", lambda: iter([0.001] * 1000))
    return put


def watch_topics(monkeypatch, *read: topics.Topic | Exception) -> None:
    """Have each look at Kafka find the next of these, and from then on the last."""
    left = [*read]

    def look() -> topics.Topic:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    watch = topics.Watch(look, 4)
    watch.current()
    monkeypatch.setattr(topics, "watch", lambda: watch)


RECREATED = topics.Topic(TOPIC.name, "topic-2", 12)


def test_a_receipt_of_a_topic_that_was_recreated_meanwhile_is_not_waited_for(
    table, monkeypatch
):
    """The item's fence of the old topic is higher, and says nothing of the update."""
    client = table(item(99))
    watch_topics(monkeypatch, TOPIC, RECREATED)
    answer = post("wait=5")
    assert answer.status_code == 503
    assert "recreated" in answer.json()["detail"]
    assert client.looks == 0


def test_without_a_look_at_kafka_there_is_no_wait(table, monkeypatch):
    client = table(item(99))
    watch_topics(monkeypatch, TOPIC, topics.KafkaUnavailable("away"))
    assert post("wait=5").status_code == 202
    assert client.looks == 0


def test_a_receipt_is_asked_for_by_the_topic_as_it_is_now(table, monkeypatch):
    client = table(item(99))
    watch_topics(monkeypatch, TOPIC, RECREATED)
    assert get().status_code == 400
    assert client.looks == 0


def post(prefer: str, body: str = '{"PatientId": "1"}'):
    headers = {"prefer": prefer}
    return Client().post("/patientprofile", body, "application/json", headers=headers)


def get(receipt: object = Receipt(SOURCE, 41), **query: str):
    path = f"/patientprofile/{quote(PATIENT)}"
    return Client().get(path, {"receipt": str(receipt), **query})


def test_a_receipt_is_read_as_it_is_written():
    receipt = Receipt(Source("AaIC-_hIekGk1UVrZqCo7w", 3), 12)
    assert Receipt.parse(str(receipt)) == receipt


@pytest.mark.parametrize(
    "text", ["", "a.b.c", "t.1", "t.1.2.3", "t.-1.2", "t.1.²", "t.1.2\n"]
)
def test_what_is_no_receipt_is_not_read_as_one(text):
    with pytest.raises(ValueError, match="not a receipt"):
        updates.Receipt.parse(text)


def test_waiting_answers_with_the_profile_that_includes_the_update(table):
    client = table(None, item(40, FirstName="old"), item(41, FirstName="new"))
    answer = post("wait=5")
    assert (answer.status_code, answer.json()["FirstName"]) == (200, "new")
    assert answer["Preference-Applied"] == "wait=5"
    assert answer["ETag"] == items.etag(item(41))
    assert "private" in answer["Cache-Control"]
    assert client.looks == 3


def test_a_later_update_includes_this_one(table):
    table(item(99))
    assert post("wait=5").status_code == 200


def test_a_wait_that_ran_out_is_the_plain_202(table, monkeypatch):
    monkeypatch.setattr(reader, "_pauses", lambda: iter([0.6] * 9))
    table(item(40))
    answer = post("wait=1")
    assert (answer.status_code, answer.json()["Offset"]) == (202, 41)
    assert "Preference-Applied" not in answer


def test_an_update_is_accepted_though_the_table_is_away(table, monkeypatch):
    def away(*_):
        raise StoreUnavailable("DynamoDB does not answer")

    table(None)
    monkeypatch.setattr(reader.profiles(), "await_receipt", away)
    assert post("wait=5").status_code == 202


def test_a_wait_is_capped(table):
    table(item(41))
    assert post("wait=86400")["Preference-Applied"] == "wait=10"


@pytest.mark.parametrize(
    ("prefer", "waits"),
    [
        ("wait=5", True),
        ("respond-async, wait=5", True),
        ("Wait=5; foo", True),
        ('wait="5"', True),
        ('wait = 5, handling="strict"', True),
        ('wait\t=\t"5"; foo', True),
        ("wait=0", False),
        ('wait="0"', False),
        ('wait="5', False),
        ("wait='5'", False),
        ("wait 5", False),
        ("wait=-1", False),
        ("wait", False),
        ("handling=strict", False),
        ("nowait=5", False),
    ],
)
def test_the_preference_is_read_as_rfc_7240_writes_it(table, prefer, waits):
    table(item(41))
    assert post(prefer).status_code == (200 if waits else 202)


def test_where_too_many_wait_one_look_is_all(table):
    client = table(item(40), waiters=1)
    profiles = reader.profiles()
    with profiles._waiters:
        assert post("wait=10").status_code == 202
    assert client.looks == 1


def test_many_updates_are_never_waited_for(table):
    client = table(item(41))
    assert post("wait=5", '[{"PatientId": "1"}]').status_code == 202
    assert client.looks == 0


def test_a_profile_is_shown_once_it_includes_the_receipt(table):
    table(item(40), item(41, FirstName="new"))
    answer = get(wait="5")
    assert (answer.status_code, answer.json()["FirstName"]) == (200, "new")
    assert "private" in answer["Cache-Control"]


def test_a_receipt_that_is_not_yet_applied_is_504(table):
    table(item(40))
    assert "does not include" in problem(get(), 504)["detail"]


@pytest.mark.parametrize(
    "receipt",
    [
        "rubbish",
        Receipt(Source("topic-0", SOURCE.partition), 41),
        Receipt(Source(TOPIC.id, (SOURCE.partition + 1) % 12), 41),
        Receipt(Source(TOPIC.id, 4000), 41),
    ],
    ids=["malformed", "another topic", "another partition", "no partition"],
)
def test_a_receipt_that_this_patient_can_not_have_is_400(table, receipt):
    table(item(41))
    assert problem(get(receipt), 400)["errors"].keys() == {"receipt"}


@pytest.mark.parametrize("wait", ["-1", "1.5", "x", "", "²"])
def test_a_wait_that_is_no_number_is_400(table, wait):
    table(item(41))
    assert problem(get(wait=wait), 400)["errors"].keys() == {"wait"}


def test_an_unchanged_profile_is_304(table):
    table(item(41), item(41), item(42))
    path = f"/patientprofile/{PATIENT}"
    etag = Client().get(path)["ETag"]
    unchanged = Client().get(path, headers={"if-none-match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged["ETag"] == etag
    assert unchanged["Cache-Control"] == "private, no-cache"
    assert Client().get(path, headers={"if-none-match": etag}).status_code == 200


@pytest.mark.parametrize(
    ("told", "status"),
    [
        *((told, 304) for told in ["W/{}", '"x", W/{}', "*", " * "]),
        *((told, 200) for told in ["W/x", "w/{}", '"*"', ""]),
    ],
)
def test_if_none_match_compares_weakly_and_takes_any(table, told, status):
    table(item(41))
    path = f"/patientprofile/{PATIENT}"
    named = told.format(Client().get(path)["ETag"])
    answer = Client().get(path, headers={"if-none-match": named})
    assert answer.status_code == status


def test_the_list_is_read_page_by_page(dynamodb, settings):
    table = writer.TableWriter(dynamodb, settings.DYNAMODB_TABLE)
    for number in range(5):
        table.apply([update_at(number, f"p{number}", FirstName="A")], OURS)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = (
            Client().get("/patientprofile", {"limit": "2", "cursor": cursor}).json()
        )
        assert len(answer["Profiles"]) <= 2
        seen += [profile["PatientId"] for profile in answer["Profiles"]]
        cursor = answer["Cursor"]
    assert sorted(seen) == [f"p{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"cursor": "InAyIg:1abc:forged"}, "cursor"),
    ],
    ids=repr,
)
def test_a_list_that_can_not_be_is_400(dynamodb, query, named):
    assert problem(Client().get("/patientprofile", query), 400)["errors"].keys() == {
        named
    }


def test_reads_that_a_stalled_table_holds_up_are_bounded(monkeypatch):
    monkeypatch.setattr("profiles.runtime.gates.STALLED_S", 0.05)
    release = threading.Event()

    class Stalled(Table):
        def get_item(self, **_):
            release.wait(10)
            return {}

    client: Any = Stalled()
    reader = TableReader(client, "t", readers=1)
    first = threading.Thread(target=reader.get, args=["1"])
    first.start()
    with pytest.raises(StoreUnavailable, match="too many reads"):
        reader.get("1")
    release.set()
    first.join()


@pytest.mark.real
def test_a_patients_partition_is_the_one_that_kafkas_own_client_picks():
    patients = [str(n) for n in range(200)] + ["a/b", "é", "患者", "😀", "x" * 128]
    for partitions in (1, 12, 48):
        ours = [records.partition_of(patient, partitions) for patient in patients]
        keys = [records.key_of(patient) for patient in patients]
        assert ours == murmur2_partitions(keys, partitions)


@pytest.mark.parametrize("fence", [{"S": "41"}, {"B": b"41"}, {"N": "41.5"}], ids=repr)
def test_a_damaged_item_is_readable_and_includes_no_receipt(table, fence):
    damaged = {items.fence_name(SOURCE): fence, "Phone": {"B": b"\xff"}}
    table({"PatientId": {"S": PATIENT}, **damaged})
    answer = Client().get(f"/patientprofile/{PATIENT}")
    assert answer.json() == {"PatientId": PATIENT, "Phone": "unreadable"}
    assert get().status_code == 504
    assert post("wait=1").status_code == 202
