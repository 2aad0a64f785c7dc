"""The dead letters: listed, shown, redriven, and none of them twice."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from profiles.core import serializers
from profiles.core.records import DeadLetter, InvalidRecord, ProducerRecord, Record
from profiles.core.updates import Receipt, Source
from profiles.kafka import clients, topics
from profiles.kafka.dead_letters import DeadLetterReader, DeadLetterWriter
from profiles.kafka.producer import NotAcknowledged, Verdict
from profiles.kafka.topics import Topic
from profiles.management.commands import dead_letters as command
from profiles.operate.redrive import Redriven, redrive
from tests.fakes import NOW_MS, SOURCE, TOPIC, FakeAdmin, FakeKafkaProducer, record_of

KEPT = Topic("patient-profile.dlq", "dead-letter-topic", 1)
REASON = InvalidRecord("invalid_fields", "Phone")
VALID = b'{"PatientId": "1", "FirstName": "Ann"}'


class FakeLog:
    """The dead-letter topic as a list; produce to it with `topic`."""

    def __init__(self) -> None:
        self.kept: list[Record] = []
        self.passes = 0
        self.producer = FakeKafkaProducer()
        self.topic = DeadLetterWriter(self._take_all, KEPT.name)

    def _take_all(self) -> Any:
        return self

    def produce(self, topic, value, key, *, headers, on_delivery) -> None:
        source = Source(KEPT.id, 0)
        self.kept.append(
            Record(topic, source, len(self.kept), NOW_MS, key, value, tuple(headers))
        )
        self.producer.produce(topic, value, key, on_delivery=on_delivery)

    def flush(self, timeout: float) -> int:
        return self.producer.flush(timeout)

    def spans(self) -> dict[int, range]:
        return {0: range(len(self.kept))}

    def records(self, spans: Mapping[int, range]) -> Iterator[Record]:
        self.passes += 1
        for span in spans.values():
            yield from self.kept[span.start : span.stop]


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
def letters(log) -> DeadLetterReader:
    return DeadLetterReader(log)


def put(
    log: FakeLog,
    value: bytes | None,
    offset: int = 0,
    reason: InvalidRecord = REASON,
    **more: Any,
) -> Record:
    record = record_of(value, offset=offset, **more)
    assert log.topic.put([DeadLetter(record, reason)]) == []
    return record


def test_a_letter_has_its_reason_and_its_receipt(log, letters):
    record = put(log, b"[", 7)
    letters.read()
    (letter,) = letters.open
    assert letter.receipt == Receipt(record.source, 7)
    assert (letter.code, letter.detail) == ("invalid_fields", "Phone")
    assert (letter.topic, letter.copies) == (TOPIC.name, 1)


def test_one_letter_however_often_it_was_written(log, letters):
    for offset in (7, 8, 7, 7):
        put(log, b"[", offset)
    letters.read()
    assert [letter.copies for letter in letters.open] == [3, 1]


def test_reading_again_goes_on_where_it_ended(log, letters):
    put(log, b"[", 1)
    letters.read()
    put(log, b"[", 2)
    letters.read()
    letters.read()
    assert [letter.copies for letter in letters.open] == [1, 1]


@pytest.mark.parametrize("key", [b"1", b"\xff", None], ids=repr)
@pytest.mark.parametrize("value", [b"[", None], ids=repr)
def test_the_record_comes_back_as_it_was(log, letters, key, value):
    headers = (("trace", b"x"), ("dead-letter.offset", b"99"), ("empty", None))
    record = put(log, value, 7, key=key, timestamp_ms=-1, headers=headers)
    letters.read()
    assert [*letters.records(letters.open)] == [(letters.open[0], record)]


def test_a_record_that_brings_our_headers_is_no_note_of_a_redriving(log, letters):
    headers = (("dead-letter.redriven-as", b"x.0.0"), ("dead-letter.offset", b"1"))
    put(log, VALID, 7, headers=headers)
    letters.read()
    assert [letter.receipt.offset for letter in letters.open] == [7]
    assert letters.redriven == {}


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("dead-letter.offset", b"x"),),
        (("a", b"1"),),
        (("dead-letter.code", None),),
    ],
)
def test_what_the_consumer_did_not_write_is_counted_apart(log, letters, headers):
    log.kept.append(record_of(b"[", headers=headers))
    letters.read()
    assert (letters.open, letters.foreign) == ([], 1)


def test_a_redriven_letter_is_no_longer_open(log, letters):
    record = put(log, VALID, 7)
    letters.read()
    receipt = Receipt(record.source, 50)
    published: list[ProducerRecord] = []

    def publish_all(updates: Sequence[ProducerRecord]) -> list[Receipt]:
        published.extend(updates)
        return [receipt]

    update = serializers.validate(record)
    done = redrive([(letters.open[0], update)], publish_all, log.topic)
    assert done == [Redriven(Receipt(record.source, 7), receipt, noted=True)]
    assert published == [update]
    put(log, VALID, 7)  # a rebuild writes the record again
    letters.read()
    assert letters.open == []
    assert letters.redriven == {Receipt(record.source, 7): str(receipt)}


def test_a_redriving_without_an_acknowledged_note_is_not_noted(log, letters):
    record = put(log, VALID, 7)
    letters.read()
    silent = DeadLetterWriter(lambda: FakeKafkaProducer(acks=False), KEPT.name)  # type: ignore[arg-type, return-value]
    batch = [(letters.open[0], serializers.validate(record))]
    [done] = redrive(batch, lambda updates: [Receipt(record.source, 50)], silent)
    assert not done.noted


def test_of_a_patient_no_letter_after_a_refused_one_is_noted(log, letters):
    """So the next redrive sends them again in their order."""
    others = b'{"PatientId": "2", "FirstName": "Bob"}'
    for offset, value in enumerate([VALID, others, VALID, VALID, others]):
        put(log, value, offset, key=json.loads(value)["PatientId"].encode())
    letters.read()
    batch = [
        (each, serializers.validate(kept))
        for each, kept in letters.records(letters.open)
    ]

    def publish_all(updates: Sequence[ProducerRecord]) -> list[Verdict]:
        verdicts: list[Verdict] = [Receipt(SOURCE, 50 + n) for n in range(5)]
        verdicts[2] = NotAcknowledged("Kafka did not")
        return verdicts

    done = redrive(batch, publish_all, log.topic)
    assert [each.noted for each in done] == [True, True, False, False, True]
    letters.read()
    assert [letter.receipt.offset for letter in letters.open] == [2, 3]


# The command


class FakePublisher:
    """Acknowledges each update, or refuses it with what it was given."""

    published: list[ProducerRecord] = []
    refuses: NotAcknowledged | None = None

    def __init__(self, make, topic, is_still, capacity) -> None:
        pass

    def publish_all(self, updates: Sequence[ProducerRecord]) -> list[Verdict]:
        return [self.refuses or self._publish(update) for update in updates]

    def _publish(self, update: ProducerRecord) -> Receipt:
        self.published.append(update)
        return Receipt(Source(TOPIC.id, 3), 100 + len(self.published))


@pytest.fixture
def kafka(log, monkeypatch, settings):
    """The command on the fake log."""
    settings.KAFKA_PARTITIONS = TOPIC.partitions
    monkeypatch.setattr(clients, "admin", FakeAdmin)
    monkeypatch.setattr(clients, "group_reader", lambda: None)
    monkeypatch.setattr(clients, "dead_letter_producer", lambda: log)
    monkeypatch.setattr(topics, "describe", lambda admin, name: KEPT)
    monkeypatch.setattr(command, "LogReader", lambda reader, topic: log)
    monkeypatch.setattr(command, "Publisher", FakePublisher)
    monkeypatch.setattr(FakePublisher, "published", [])
    return FakePublisher


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command("dead_letters", *arguments, stdout=output)
    return output.getvalue()


def test_the_list_has_reason_source_age_and_count(log, kafka):
    put(log, b"[", 7)
    put(log, b"[", 7)
    lines = run("list").splitlines()
    assert lines[0] == "1 dead letters, 1 of them not redriven"
    assert "topic-1.0.7  invalid_fields: Phone  kept for " in lines[1]
    assert "written 2 times" in lines[1]


def test_a_letter_is_shown_without_its_values_unless_they_are_asked_for(log, kafka):
    put(log, b'{"FirstName": "Ann\x1b"}', 7, headers=(("origin", b"clinic"),))
    shown = run("show", "topic-1.0.7")
    assert "value: 21 bytes" in shown
    assert "Ann" not in shown
    assert "clinic" not in shown
    shown = run("show", "topic-1.0.7", "--values")
    assert "Ann\\x1b" in shown
    assert "origin: 'clinic'" in shown


def test_a_letter_that_is_not_there_is_a_clear_refusal(log, kafka):
    with pytest.raises(CommandError, match="No dead letter topic-1.0.7"):
        run("show", "topic-1.0.7")


def test_redrive_sends_what_is_valid_now_once_and_only_with_yes(log, kafka):
    put(log, VALID, 7)
    put(log, b"[", 8)
    warned = run("redrive")
    assert "1 of 2 dead letters are valid now" in warned
    assert "newer than all" in warned
    assert "add --yes" in warned
    assert kafka.published == []
    assert "topic-1.0.7 redriven as topic-1.3.101" in run("redrive", "--yes")
    assert "0 of 1 dead letters" in run("redrive", "--yes")
    assert len(kafka.published) == 1
    assert "redriven as topic-1.3.101" in run("list")


ELSEWHERE = b'{"PatientId": "2", "FirstName": "Bob"}'
"""In partition 0, where patient 2 is not at home."""

MISPLACED = InvalidRecord("wrong_partition", "in partition 0, and its key belongs in 2")


@pytest.mark.parametrize("reason", [MISPLACED, REASON], ids=lambda reason: reason.code)
def test_redrive_leaves_out_what_was_in_another_partition_and_says_so(
    log, kafka, reason
):
    put(log, VALID, 7)
    put(log, ELSEWHERE, 8, key=b"2", reason=reason)
    output = run("redrive", "--yes")
    assert "1 of 2 dead letters are valid now" in output
    assert "1 more are left out" in output
    assert "outside its patient's partition" in output
    assert [update.patient_id for update in kafka.published] == ["1"]


def test_redrive_leaves_out_what_was_judged_by_another_partition_count(log, kafka):
    """Here the right one: its patient's later updates were applied in its partition."""
    put(log, VALID, 7, reason=MISPLACED)
    assert "1 more are left out" in run("redrive", "--yes")
    assert kafka.published == []


def test_one_that_was_in_another_partition_is_redriven_by_its_receipt(log, kafka):
    put(log, ELSEWHERE, 8, key=b"2", reason=MISPLACED)
    output = run("redrive", "topic-1.0.8", "--yes")
    assert "1 of 1 dead letters are valid now" in output
    assert "newer than all" in output
    assert "topic-1.0.8 redriven as topic-1.3.101" in output
    assert "left out" not in run("redrive", "--yes")


def test_redrive_can_be_for_one_letter(log, kafka):
    put(log, VALID, 7)
    put(log, VALID, 9)
    run("redrive", "topic-1.0.9", "--yes")
    assert len(kafka.published) == 1
    with pytest.raises(CommandError, match=r"redriven already, as topic-1\.3\.101"):
        run("redrive", "topic-1.0.9", "--yes")


def test_an_update_that_is_not_acknowledged_ends_the_redriving(log, kafka, monkeypatch):
    put(log, VALID, 7)
    monkeypatch.setattr(kafka, "refuses", NotAcknowledged("Kafka did not"))
    with pytest.raises(CommandError, match="zero times or once"):
        run("redrive", "--yes")
    assert len(log.kept) == 1


def test_however_many_letters_are_redriven_their_topic_is_read_twice(log, kafka):
    """To know which are open, and then their bytes."""
    for offset in range(2 * command.BATCH + 50):
        put(log, VALID, offset)
    assert run("redrive", "--yes").count(" redriven as ") == 2 * command.BATCH + 50
    assert log.passes == 2
    assert "0 of 0" in run("redrive")


def test_a_letter_that_is_gone_from_its_topic_is_an_error(log, kafka, monkeypatch):
    put(log, VALID, 7)
    monkeypatch.setattr(DeadLetterReader, "records", lambda letters, wanted: iter(()))
    with pytest.raises(CommandError, match="no longer on the dead-letter topic"):
        run("show", "topic-1.0.7")
