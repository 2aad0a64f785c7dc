"""Dead letters: the record untouched, and beside it where it came from and why."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from profiles.core.records import DeadLetter, InvalidRecord
from profiles.core.updates import Receipt, Source
from profiles.kafka import clients, dead_letters
from profiles.kafka.dead_letters import DeadLetterReader, DeadLetterWriter
from profiles.kafka.reader import LogReader
from profiles.kafka.topics import Topic
from tests.fakes import NOW_MS, SOURCE, FakeKafkaProducer, record_of

REASON = InvalidRecord("not_json", "not UTF-8 at byte 3")


def letters(*values: bytes | None, key: bytes | None = b"1") -> list[DeadLetter]:
    return [
        DeadLetter(record_of(value, key, offset=i, headers=[("trace", b"x")]), REASON)
        for i, value in enumerate(values)
    ]


@pytest.fixture
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(dead_letters, "ATTEMPT_S", 0.05)


def topic(*producers: FakeKafkaProducer) -> DeadLetterWriter:
    left: list[Any] = [*producers]
    return DeadLetterWriter(lambda: left.pop(0), "patient-profile.dlq")


@pytest.mark.parametrize("key", [b"1", b"", b"\xff", None], ids=repr)
@pytest.mark.parametrize("value", [b"{", b"", b"\xff\x00", None], ids=repr)
def test_key_value_and_headers_stay_as_they_are(key, value):
    kafka = FakeKafkaProducer()
    assert topic(kafka).put(letters(value, key=key)) == []
    assert kafka.produced == [("patient-profile.dlq", key, value)]
    assert kafka.headers[0][0] == ("trace", b"x")


def test_the_headers_say_where_it_came_from_and_why():
    kafka = FakeKafkaProducer()
    topic(kafka).put(letters(b"{"))
    assert dict(kafka.headers[0][1:]) == {
        "dead-letter.code": b"not_json",
        "dead-letter.detail": b"not UTF-8 at byte 3",
        "dead-letter.topic": b"patient-profile",
        "dead-letter.topic-id": b"topic-1",
        "dead-letter.partition": b"0",
        "dead-letter.offset": b"0",
        "dead-letter.timestamp-ms": str(NOW_MS).encode(),
    }


def test_what_is_not_acknowledged_is_returned(in_a_hurry):
    kafka = FakeKafkaProducer(acks=False)
    written = letters(b"a", b"b", b"c")

    def flush(timeout: float) -> int:
        if len(kafka) == 3:
            kafka.answer()
            kafka.answer(KafkaError._MSG_TIMED_OUT)
        return len(kafka)

    kafka.flush = flush  # type: ignore[method-assign]
    assert topic(kafka).put(written) == written[1:]


@pytest.mark.parametrize(
    "refusal", [BufferError(), KafkaException(KafkaError(KafkaError._FATAL))], ids=repr
)
def test_what_can_not_be_produced_is_returned(refusal):
    written = letters(b"a")
    assert topic(FakeKafkaProducer(refuses=refusal)).put(written) == written


def test_a_producer_that_did_not_deliver_is_replaced(in_a_hurry):
    silent, good = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    to_topic = topic(silent, good)
    assert to_topic.put(to_topic.put(letters(b"a", b"b"))) == []
    assert len(good.produced) == 2
    assert (silent.closed, good.closed) == (True, False)


def test_a_producer_that_delivers_is_kept():
    to_topic = topic(FakeKafkaProducer())
    assert to_topic.put(letters(b"a")) == to_topic.put(letters(b"b")) == []


# On a cluster, written and read


KEPT = Source("dead letters", 0)


@pytest.fixture
def written(servers, settings):
    """Three dead letters, the second one twice; their log, and its writer."""
    settings.KAFKA_BOOTSTRAP_SERVERS = servers
    to_topic = DeadLetterWriter(clients.dead_letter_producer, "patient-profile.dlq")
    first, second, third = letters(b"{", b"\xff", None)
    assert to_topic.put([first, second]) == []
    assert to_topic.put([second, third]) == []
    with closing(clients.group_reader()) as reader:
        topic = Topic("patient-profile.dlq", KEPT.topic_id, 4)
        yield LogReader(reader, topic, patience_s=20), to_topic


def test_a_letter_is_read_once_however_often_it_was_written(written):
    log, _ = written
    kept = DeadLetterReader(log)
    kept.read()
    by_offset = {receipt.offset: letter for receipt, letter in kept.letters.items()}
    assert [by_offset[offset].copies for offset in (0, 1, 2)] == [1, 2, 1]
    assert {letter.code for letter in by_offset.values()} == {"not_json"}
    assert {receipt.source for receipt in kept.letters} == {SOURCE}
    assert (kept.retained, kept.unread, kept.foreign) == (4, 0, 0)


def test_a_letters_record_comes_back_from_the_topic_untouched(written):
    log, _ = written
    kept = DeadLetterReader(log)
    kept.read()
    wanted = kept.letters[Receipt(SOURCE, 1)]
    [(letter, record)] = kept.records([wanted])
    assert letter is wanted
    assert (record.value, record.key) == (b"\xff", b"1")
    assert [*record.headers] == [("trace", b"x")]
    assert (record.source, record.offset) == (SOURCE, 1)


def test_the_records_of_many_letters_come_in_one_pass_of_the_log(written, monkeypatch):
    log, _ = written
    kept = DeadLetterReader(log)
    kept.read()
    passes = []
    read = log.records

    def counted(spans):
        passes.append(spans)
        return read(spans)

    monkeypatch.setattr(log, "records", counted)
    found = [*kept.records([*kept.letters.values()])]
    assert [record.value for _, record in found] == [b"{", b"\xff", None]
    assert len(passes) == 1


def test_of_each_partition_the_last_letters_can_be_read_alone(written):
    log, _ = written
    kept = DeadLetterReader(log, last=1)
    kept.read()
    assert [receipt.offset for receipt in kept.letters] == [2]
    assert (kept.retained, kept.unread) == (4, 3)


def test_reading_again_reads_what_has_come_since(written):
    log, to_topic = written
    kept = DeadLetterReader(log)
    kept.read()
    first = Receipt(SOURCE, 0)
    assert to_topic.mark_redriven({first: Receipt(SOURCE, 9)}) == {first}
    kept.read()
    assert {letter.receipt.offset: letter.copies for letter in kept.open} == {
        1: 2,
        2: 1,
    }
    assert kept.redriven == {Receipt(SOURCE, 0): "topic-1.0.9"}
