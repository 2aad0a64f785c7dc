"""Dead letters: records that are no update, kept on a topic of their own.

Writing: dead letters in, those that Kafka did not acknowledge out. Reading: the topic's
log in, its letters out, without their bytes. The record's key, value and headers stay
untouched; where it came from and why is in headers of ours after them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from profiles.core.records import DeadLetter, Headers, Record
from profiles.core.updates import Receipt, Source
from profiles.kafka.reader import LogReader

ATTEMPT_S = 5.0
PREFIX = "dead-letter."
REDRIVEN = "redriven-as"

_Sent = tuple[bytes | None, bytes | None, Headers]
"""Value, key and headers."""


class DeadLetterWriter:
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


# Reading


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a dead letter; its bytes stay on the dead-letter topic.

    `receipt` is where the record stands on the topic it came from, `kept` where its
    first copy stands on the dead-letter topic, `kept_ms` since when, and `copies` how
    often it was written there.
    """

    receipt: Receipt
    topic: str
    timestamp_ms: int
    code: str
    detail: str
    kept: Receipt
    kept_ms: int
    copies: int = 1


class DeadLetterReader:
    """The dead-letter topic as it is read: one letter per place, however often written.

    Reading again goes on where the last reading ended. `foreign` counts the records
    that nobody of ours wrote there. With `last`, no more than so many of the newest
    records of each partition are read; `retained` counts all that are there, and
    `unread` those of them that were not read.
    """

    def __init__(self, log: LogReader, last: int = sys.maxsize) -> None:
        self.letters: dict[Receipt, Letter] = {}
        self.redriven: dict[Receipt, str] = {}
        self.foreign = 0
        self.retained = 0
        self._log = log
        self._last = last
        self._read = 0
        self._next: dict[int, int] = {}

    def read(self) -> None:
        """Read to the present end; raises what reading the log raises."""
        spans = self._log.spans()
        self.retained = sum(map(len, spans.values()))
        unread = {
            partition: range(self._first(partition, span), span.stop)
            for partition, span in spans.items()
        }
        for record in self._log.records(unread):
            self._take(record)
            self._read += 1
            self._next[record.source.partition] = record.offset + 1

    @property
    def unread(self) -> int:
        return max(0, self.retained - self._read)

    def _first(self, partition: int, span: range) -> int:
        read = self._next.get(partition, 0)
        return max(span.start, read, span.stop - self._last)

    @property
    def open(self) -> list[Letter]:
        """Those that were not redriven: what an operator has still to look at."""
        letters = self.letters.values()
        return [letter for letter in letters if letter.receipt not in self.redriven]

    def record(self, letter: Letter) -> Record | None:
        """The record as it stood on its topic; None where the letter is gone."""
        kept = self._log.record(letter.kept)
        if kept is None:
            return None
        return Record(
            letter.topic,
            letter.receipt.source,
            letter.receipt.offset,
            letter.timestamp_ms,
            kept.key,
            kept.value,
            own_headers(kept),
        )

    def _take(self, record: Record) -> None:
        facts = origin(record)
        try:
            source = Source(facts["topic-id"], int(facts["partition"]))
            place = Receipt(source, int(facts["offset"]))
            if is_mark(record):
                self.redriven[place] = facts["redriven-as"]
            elif place in self.letters:
                again = self.letters[place]
                self.letters[place] = replace(again, copies=again.copies + 1)
            else:
                self.letters[place] = _letter(record, facts, place)
        except (KeyError, ValueError):
            self.foreign += 1


def _letter(record: Record, facts: dict[str, str], place: Receipt) -> Letter:
    return Letter(
        receipt=place,
        topic=facts["topic"],
        timestamp_ms=int(facts["timestamp-ms"]),
        code=facts["code"],
        detail=facts["detail"],
        kept=Receipt(record.source, record.offset),
        kept_ms=record.timestamp_ms,
    )


# The headers: what a record brought comes first, ours last.


def origin(kept: Record) -> dict[str, str]:
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
