"""Dead letters: records that are no update, kept on a topic of their own.

In: dead letters. Out: those that Kafka did not acknowledge, to be tried again. The
record's key, value and headers stay untouched; where it came from and why is in
headers of ours after them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from profiles.records import DeadLetter, Headers, Record
from profiles.updates import Receipt

ATTEMPT_S = 5.0
PREFIX = "dead-letter."
REDRIVEN = "redriven-as"

_Sent = tuple[bytes | None, bytes | None, Headers]
"""Value, key and headers."""


class DeadLetterTopic:
    """The dead-letter topic as it is written."""

    def __init__(self, make: Callable[[], Producer], name: str) -> None:
        self._make = make
        self._producer: Producer | None = None
        self._name = name

    def put(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Produce the letters and wait; returns those without an acknowledgement."""
        kept = self._send([_sent(letter) for letter in letters])
        return [letter for index, letter in enumerate(letters) if index not in kept]

    def mark_redriven(self, place: Receipt, receipt: Receipt) -> bool:
        """Note that the letter of this place is an update now; whether it is noted."""
        facts = {**_place(place), REDRIVEN: str(receipt)}
        return bool(self._send([(None, None, _headers(facts))]))

    def _send(self, records: Sequence[_Sent]) -> set[int]:
        """Produce and wait; returns which were acknowledged.

        A producer that did not deliver is given up: it may never do so again.
        """
        if self._producer is None:
            self._producer = self._make()
        producer = self._producer
        kept: set[int] = set()
        for index, record in enumerate(records):
            self._produce(producer, record, index, kept)
        _flush(producer)
        if len(kept) < len(records):
            self._producer = None
            producer.purge()  # else closing it waits for what it could not deliver
            producer.close()
        return kept

    def _produce(
        self, producer: Producer, record: _Sent, index: int, kept: set[int]
    ) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                kept.add(index)

        value, key, headers = record
        try:
            producer.produce(
                self._name, value, key, headers=[*headers], on_delivery=delivered
            )
        except (BufferError, KafkaException):
            producer.poll(0)


def _flush(producer: Producer) -> None:
    """Wait for the answers, and hear a signal meanwhile: `flush` itself is deaf."""
    deadline = time.monotonic() + ATTEMPT_S
    while producer.flush(0.2) and time.monotonic() < deadline:
        pass


# The headers: what a record brought comes first, ours last.


def facts(kept: Record) -> dict[str, str]:
    """What our headers tell; they come last, so none that the record brought counts."""
    return {
        name.removeprefix(PREFIX): value.decode(errors="replace")
        for name, value in kept.headers
        if name.startswith(PREFIX) and isinstance(value, bytes)
    }


def is_mark(kept: Record) -> bool:
    """Whether this is the note of a redriving: a letter's last header is another."""
    return kept.headers[-1][0] == PREFIX + REDRIVEN


def own_headers(kept: Record) -> Headers:
    """The headers that the record brought."""
    return kept.headers[: -len(_ORIGIN)]


_ORIGIN = ("code", "detail", "topic", "topic-id", "partition", "offset", "timestamp-ms")


def _sent(letter: DeadLetter) -> _Sent:
    record, reason = letter.record, letter.reason
    origin = {
        "code": reason.code,
        "detail": reason.detail,
        "topic": record.topic,
        **_place(Receipt(record.source, record.offset)),
        "timestamp-ms": str(record.timestamp_ms),
    }
    return record.value, record.key, [*record.headers, *_headers(origin)]


def _place(place: Receipt) -> dict[str, str]:
    return {
        "topic-id": place.source.topic_id,
        "partition": str(place.source.partition),
        "offset": str(place.offset),
    }


def _headers(facts: Mapping[str, str]) -> Headers:
    return [(PREFIX + name, text.encode()) for name, text in facts.items()]
