"""One patient's page: the fields, the item, the timeline."""

from __future__ import annotations

import html
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from profiles.core.updates import Receipt
from profiles.dynamodb import reader
from profiles.kafka import reader_pool, topics
from profiles.kafka.reader import LogReader
from profiles.pages import patient, timeline
from tests.fakes import OURS, TOPIC, update_at
from tests.pages.shown import UNREADABLE, get_page, rows

pytestmark = pytest.mark.usefixtures("kafka")


@pytest.fixture
def story(monkeypatch):
    """Gives every patient a timeline of these entries."""

    def give(*entries, read=range(100), strays=()):
        def read_timeline(patient_id, before):
            item = reader.profiles().get(patient_id)
            shown = timeline.Timeline(3, [*entries], read, range(100), strays)
            return item, shown

        monkeypatch.setattr(patient, "_read_timeline", read_timeline)

    return give


def entry(offset, fate, changes=None, reason=""):
    receipt = Receipt(update_at(offset).source, offset)
    return timeline.Entry(receipt, 1_700_000_000_000, fate, changes or {}, reason)


def test_the_page_says_what_is_not_set_and_shows_the_item(store):
    store("1", FirstName="John")
    content = html.unescape(get_page("/profiles/1/").content.decode())
    assert "not set" in content
    assert '"_fence:topic-1:0"' in content
    assert '"_incarnation"' in content
    assert str(OURS) not in str(rows(get_page("/profiles/1/")))


def test_an_unknown_patient_is_a_404_page(dynamodb, story):
    story()
    response = get_page("/profiles/nobody/")
    assert response.status_code == 404
    assert (
        "partition 3 of the topic holds no record of this patient"
        in response.content.decode()
    )


def test_an_unknown_patient_of_a_timeline_that_was_cut_can_be_searched_further(
    dynamodb, story
):
    story(read=range(40, 100))
    response = get_page("/profiles/nobody/")
    assert response.status_code == 404
    assert 'href="?before=40"' in response.content.decode()


def test_a_patient_without_an_item_shows_what_waits(dynamodb, story):
    story(entry(7, timeline.Fate.WAITING, {"FirstName": "John"}))
    response = get_page("/profiles/new/")
    assert response.status_code == 200
    content = response.content.decode()
    assert "no profile of this patient yet" in content
    assert "waiting</span>" in content
    assert "First name: John" in content


def test_the_timeline_says_what_each_record_did(store, story):
    store("1", FirstName="John")
    story(
        entry(9, timeline.Fate.DEAD_LETTERED, reason="not_json: at character 0"),
        entry(8, timeline.Fate.APPLIED, {"Sex": None, "LastName": "<b>"}),
    )
    content = get_page("/profiles/1/").content.decode()
    assert "not a valid update: not_json: at character 0" in content
    assert "Sex: <em>removed</em>" in content
    assert "Last name: &lt;b&gt;" in content
    assert "2023-11-14 22:13:20.000" in content


def test_a_timeline_that_was_cut_says_so_and_goes_on(store, story):
    store("1")
    story(entry(99, timeline.Fate.APPLIED), read=range(40, 100))
    content = get_page("/profiles/1/").content.decode()
    assert "were not read" in content
    assert 'href="?before=40"' in content


def test_an_item_that_includes_updates_of_another_partition_says_so(store, story):
    store("1")
    story(entry(99, timeline.Fate.APPLIED))
    content = get_page("/profiles/1/").content.decode()
    assert "not this patient" not in content
    story(entry(99, timeline.Fate.APPLIED), strays=[5, 7])
    content = get_page("/profiles/1/").content.decode()
    assert "includes updates from partition 5, 7, which is not this patient" in content


@pytest.fixture
def log(monkeypatch):
    """Kafka answers, and its log can be read."""
    log = LogReader(None, TOPIC)  # type: ignore[arg-type]
    pool = SimpleNamespace(reader=lambda topic: nullcontext(log))
    watch = SimpleNamespace(current=lambda: TOPIC)
    monkeypatch.setattr(topics, "watch", lambda: watch)
    monkeypatch.setattr(reader_pool, "readers", lambda: pool)


def test_a_write_in_between_never_looks_like_a_loss(monkeypatch, log):
    """Read in another order, an update applied meanwhile would be shown as missing."""
    read: list[str] = []

    def reading(what, answer):
        def note(*_, **__):
            read.append(what)
            return answer

        return note

    profiles = SimpleNamespace(
        identity=lambda: "table-1", get=reading("the item", {"PatientId": {"S": "1"}})
    )
    monkeypatch.setattr(reader, "profiles", lambda: profiles)
    monkeypatch.setattr(LogReader, "committed", reading("the offsets", {}))
    monkeypatch.setattr(timeline, "read", reading("the log", None))
    patient._read_timeline("1", None)
    assert read == ["the offsets", "the item", "the log"]


def test_the_timeline_uses_offsets_committed_for_this_table_alone(monkeypatch, log):
    def committed(log: LogReader, store: str | None) -> dict[int, int]:
        asked.append(store)
        return {}

    asked: list[str | None] = []
    profiles = SimpleNamespace(identity=lambda: "table-1", get=lambda _: None)
    monkeypatch.setattr(reader, "profiles", lambda: profiles)
    monkeypatch.setattr(LogReader, "committed", committed)
    monkeypatch.setattr(timeline, "read", lambda *_: None)
    patient._read_timeline("1", None)
    assert asked == ["table-1"]


def test_without_kafka_the_detail_shows_the_item_and_says_so(store):
    store("1", FirstName="John")
    response = get_page("/profiles/1/")
    assert response.status_code == 200
    assert "John" in response.content.decode()
    assert "Kafka does not answer" in response.content.decode()


def test_without_kafka_no_patient_is_called_unknown(dynamodb):
    response = get_page("/profiles/nobody/")
    assert response.status_code == 503
    assert "Kafka does not answer" in response.content.decode()


@pytest.mark.parametrize("before", ["x", "-1", "1.5", "٣", "9" * 30])
def test_what_is_no_offset_is_a_400_page(store, before):
    response = get_page("/profiles/1/", before=before)
    assert response.status_code == 400
    assert "Invalid offset." in response.content.decode()


@pytest.mark.parametrize("attributes", UNREADABLE, ids=str)
def test_what_can_not_be_read_of_an_item_is_shown_as_unreadable(
    dynamodb, story, attributes
):
    item = {"PatientId": {"S": "1"}, "LastName": {"S": "Doe"}, **attributes}
    dynamodb.put_item(TableName="patient-profile", Item=item)
    story(entry(9, timeline.Fate.APPLIED))
    for path in ("/profiles/", "/profiles/1/"):
        response = get_page(path)
        shown = html.unescape(response.content.decode())
        assert (response.status_code, "Doe" in shown) == (200, True)
        assert ("unreadable" in shown) or "FirstName" not in attributes


@pytest.mark.parametrize("timestamp_ms", [2**60, -(2**60), -1])
def test_a_record_whose_timestamp_is_no_date_is_shown(store, story, timestamp_ms):
    store("1")
    story(replace(entry(9, timeline.Fate.WAITING), timestamp_ms=timestamp_ms))
    assert "unreadable" in get_page("/profiles/1/").content.decode()
