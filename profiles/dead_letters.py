"""Dead letters: records that are no update, kept on a topic of their own.

In: dead letters. Out: those that Kafka did not acknowledge, to be tried again. The
record's key, value and headers stay untouched; where it came from and why is in
headers of ours beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from profiles.records import DeadLetter

ATTEMPT_S = 5.0
PREFIX = "dead-letter."


class DeadLetterTopic:
    """The dead-letter topic as the consumer writes it."""

    def __init__(self, make: Callable[[], Producer], name: str) -> None:
        self._make = make
        self._producer: Producer | None = None
        self._name = name

    def put(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Produce the letters and wait; returns those without an acknowledgement.

        A producer that did not deliver is given up: it may never do so again.
        """
        producer = self._producer = self._producer or self._make()
        kept: set[int] = set()
        for index, letter in enumerate(letters):
            self._produce(producer, letter, index, kept)
        producer.flush(ATTEMPT_S)
        if len(kept) < len(letters):
            self._producer = None
        return [letter for index, letter in enumerate(letters) if index not in kept]

    def _produce(
        self, producer: Producer, letter: DeadLetter, index: int, kept: set[int]
    ) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                kept.add(index)

        record = letter.record
        try:
            producer.produce(
                self._name,
                record.value,
                record.key,
                headers=[*record.headers, *_origin(letter)],
                on_delivery=delivered,
            )
        except (BufferError, KafkaException):
            producer.poll(0)


def _origin(letter: DeadLetter) -> list[tuple[str, bytes]]:
    record, reason = letter.record, letter.reason
    facts = {
        "code": reason.code,
        "detail": reason.detail,
        "topic": record.topic,
        "topic-id": record.source.topic_id,
        "partition": str(record.source.partition),
        "offset": str(record.offset),
        "timestamp-ms": str(record.timestamp_ms),
    }
    return [(PREFIX + name, text.encode()) for name, text in facts.items()]
