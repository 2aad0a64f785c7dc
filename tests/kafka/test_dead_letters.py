"""Dead letters: the record untouched, and beside it where it came from and why."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from profiles.core.records import DeadLetter, InvalidRecord
from profiles.kafka import dead_letters
from profiles.kafka.dead_letters import DeadLetterTopic
from tests.fakes import NOW_MS, FakeKafkaProducer, record_of

REASON = InvalidRecord("not_json", "not UTF-8 at byte 3")


def letters(*values: bytes | None, key: bytes | None = b"1") -> list[DeadLetter]:
    return [
        DeadLetter(record_of(value, key, offset=i, headers=[("trace", b"x")]), REASON)
        for i, value in enumerate(values)
    ]


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(dead_letters, "ATTEMPT_S", 0.05)


def topic(*producers: FakeKafkaProducer) -> DeadLetterTopic:
    left: list[Any] = [*producers]
    return DeadLetterTopic(lambda: left.pop(0), "patient-profile.dlq")


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


def test_what_is_not_acknowledged_is_given_back():
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
def test_what_can_not_be_produced_is_given_back(refusal):
    written = letters(b"a")
    assert topic(FakeKafkaProducer(refuses=refusal)).put(written) == written


def test_a_producer_that_did_not_deliver_is_replaced():
    silent, good = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    to_topic = topic(silent, good)
    assert to_topic.put(to_topic.put(letters(b"a", b"b"))) == []
    assert len(good.produced) == 2
    assert (silent.closed, good.closed) == (True, False)


def test_a_producer_that_delivers_is_kept():
    to_topic = topic(FakeKafkaProducer())
    assert to_topic.put(letters(b"a")) == to_topic.put(letters(b"b")) == []
