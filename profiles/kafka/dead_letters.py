"""Dead letters: records that are no update, kept on a topic of their own.

Writing: dead letters in, those that Kafka did not acknowledge out. Reading: the topic's
log in, its letters out, without their bytes. The record's key, value and headers stay
untouched; headers of ours after them say where it came from, and why it is here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    """Writes the dead-letter topic."""

    def __init__(self, make: Callable[[], Producer], name: str) -> None:
        self._make = make
        self._producer: Producer | None = None
        self._name = name

    def put(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Produce the letters and wait; returns those without an acknowledgement."""
        kept = self._send([_sent(letter) for letter in letters])
        return [letter for index, letter in enumerate(letters) if index not in kept]

    def mark_redriven(self, redriven: Mapping[Receipt, Receipt]) -> set[Receipt]:
        """Note for each letter the receipt of its new update; returns which are noted."""
        letters = [*redriven]
        notes = [
            {**_receipt_facts(letter), REDRIVEN: str(redriven[letter])}
            for letter in letters
        ]
        kept = self._send([(None, None, _headers(note)) for note in notes])
        return {letter for index, letter in enumerate(letters) if index in kept}

    def _send(self, records: Sequence[_Sent]) -> set[int]:
        """Produce and wait; returns the indexes that were acknowledged.

        A producer that did not deliver is closed: it may never deliver again.
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
    """Wait for the answers in short steps: no signal interrupts a `flush`."""
    deadline = time.monotonic() + ATTEMPT_S
    while producer.flush(0.2) and time.monotonic() < deadline:
        pass


# Reading


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a dead letter; its bytes stay on the dead-letter topic.

    `receipt` is the record's on the topic that it came from, `kept` that of its first
    copy on the dead-letter topic, `kept_ms` the time of it, and `copies` how often it
    was written there.
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
    """Reads the dead-letter topic: one letter per receipt, however often written.

    Reading again goes on where the last reading ended. `foreign` counts the records
    that another program wrote there. With `last`, no more than so many of the newest
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
        """The letters that were not redriven."""
        letters = self.letters.values()
        return [letter for letter in letters if letter.receipt not in self.redriven]

    def records(self, letters: Iterable[Letter]) -> Iterator[tuple[Letter, Record]]:
        """Each letter with its record as it was on its topic, in one pass of the log.

        In the log's order; a letter that is gone is left out. Raises what reading the
        log raises.
        """
        wanted = {letter.kept: letter for letter in letters}
        for kept in self._log.records(_spans(wanted)):
            letter = wanted.get(Receipt(kept.source, kept.offset))
            if letter is not None:
                yield letter, _original(letter, kept)

    def _take(self, record: Record) -> None:
        facts = origin(record)
        try:
            source = Source(facts["topic-id"], int(facts["partition"]))
            receipt = Receipt(source, int(facts["offset"]))
            if is_mark(record):
                self.redriven[receipt] = facts[REDRIVEN]
            elif receipt in self.letters:
                again = self.letters[receipt]
                self.letters[receipt] = replace(again, copies=again.copies + 1)
            else:
                self.letters[receipt] = _letter(record, facts, receipt)
        except (KeyError, ValueError):
            self.foreign += 1


def _spans(receipts: Iterable[Receipt]) -> dict[int, range]:
    """The offsets from the first to the last receipt of each partition."""
    spans: dict[int, range] = {}
    for receipt in receipts:
        offset = receipt.offset
        span = spans.get(receipt.source.partition, range(offset, offset))
        spans[receipt.source.partition] = range(
            min(span.start, offset), max(span.stop, offset + 1)
        )
    return spans


def _original(letter: Letter, kept: Record) -> Record:
    """The record as it was on the topic that it came from."""
    return Record(
        letter.topic,
        letter.receipt.source,
        letter.receipt.offset,
        letter.timestamp_ms,
        kept.key,
        kept.value,
        own_headers(kept),
    )


def _letter(record: Record, facts: dict[str, str], receipt: Receipt) -> Letter:
    return Letter(
        receipt=receipt,
        topic=facts["topic"],
        timestamp_ms=int(facts["timestamp-ms"]),
        code=facts["code"],
        detail=facts["detail"],
        kept=Receipt(record.source, record.offset),
        kept_ms=record.timestamp_ms,
    )


# The headers: the record's own come first, ours last.


def origin(kept: Record) -> dict[str, str]:
    """What our headers say; they come last, so they replace any that the record had."""
    return {
        name.removeprefix(PREFIX): value.decode(errors="replace")
        for name, value in kept.headers
        if name.startswith(PREFIX) and isinstance(value, bytes)
    }


def is_mark(kept: Record) -> bool:
    """Whether this notes a redriving, and is no letter: the last header says so."""
    return kept.headers[-1][0] == PREFIX + REDRIVEN


def own_headers(kept: Record) -> Headers:
    """The record's own headers."""
    return kept.headers[: -len(_ORIGIN)]


_ORIGIN = ("code", "detail", "topic", "topic-id", "partition", "offset", "timestamp-ms")


def _sent(letter: DeadLetter) -> _Sent:
    record, reason = letter.record, letter.reason
    origin = {
        "code": reason.code,
        "detail": reason.detail,
        "topic": record.topic,
        **_receipt_facts(Receipt(record.source, record.offset)),
        "timestamp-ms": str(record.timestamp_ms),
    }
    return record.value, record.key, [*record.headers, *_headers(origin)]


def _receipt_facts(receipt: Receipt) -> dict[str, str]:
    return {
        "topic-id": receipt.source.topic_id,
        "partition": str(receipt.source.partition),
        "offset": str(receipt.offset),
    }


def _headers(facts: Mapping[str, str]) -> Headers:
    return [(PREFIX + name, text.encode()) for name, text in facts.items()]
