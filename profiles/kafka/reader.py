"""The log: a topic's retained records, read from outside any group. Never writes.

In: a Kafka consumer and a topic. Out: which offsets the log retains, their records, and
what a group committed of them. Knows no field and no table.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import cast

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from profiles.core.records import Headers, Record
from profiles.core.updates import Incarnation, Source
from profiles.kafka import groups
from profiles.kafka.groups import READ_TIMEOUT_S, RESTART_S
from profiles.kafka.topics import KafkaUnavailable, Topic, unavailable

FETCHED = 1000
FETCH_S = 0.1


class LogMoved(Exception):
    """The log was truncated, or the topic recreated, while it was read: read again."""


class LogReader:
    """Reads one topic's log with a consumer that has no other user meanwhile.

    Kafka may be silent for as long as `patience_s`, then KafkaUnavailable is raised.
    """

    def __init__(
        self, consumer: Consumer, topic: Topic, patience_s: float = RESTART_S
    ) -> None:
        self._consumer = consumer
        self._patience_s = patience_s
        self.topic = topic

    def committed(self, store: str | None) -> dict[int, int]:
        """The offsets that the consumer's group committed for this topic and table.

        As the group itself judges them: an offset with another mark is of another
        incarnation of topic or table, and one without a mark an operator's. Where
        the table is unknown (None), any table's mark is valid.
        """
        found = groups.committed(self._consumer, self._partitions(), self._patience_s)
        return {
            each.partition: each.offset
            for each in found
            if each.offset >= 0 and self._is_ours(each.metadata, store)
        }

    def _is_ours(self, mark: str | None, store: str | None) -> bool:
        if not mark:
            return True
        by = Incarnation.parse(mark)
        return by.topic_id == self.topic.id and store in (None, by.table_id)

    def spans(self, partitions: Collection[int] | None = None) -> dict[int, range]:
        """The retained offsets of each partition, or of these, as they are now.

        The end is what a fetch reports: the one that ListOffsets reports is too low on
        some brokers, so reading goes on from there. Raises KafkaUnavailable.
        """
        starts = self._partitions(partitions)
        ends: dict[int, int] = {}
        for message in self._fetch(starts):
            partition = message.partition() or 0
            if partition not in ends:
                ends[partition] = self._watermarks(partition, cached=True)[1]
            if len(ends) == len(starts):
                break
        return {
            partition: range(self._watermarks(partition)[0], end)
            for partition, end in sorted(ends.items())
        }

    def records(self, spans: Mapping[int, range]) -> Iterator[Record]:
        """Every record within these offsets, each partition in order.

        Raises LogMoved where the log no longer has them, or KafkaUnavailable.
        """
        for message in self._messages(spans):
            yield record_of(message, Source(self.topic.id, message.partition() or 0))

    def search(
        self, key: bytes, partition: int, span: range
    ) -> tuple[list[Record], int]:
        """The records with this key within these offsets, in order.

        Also returns how many bytes all values read have. Raises as `records`.
        """
        source = Source(self.topic.id, partition)
        found, size = [], 0
        for message in self._messages({partition: span}):
            size += len(message)
            if message.key() == key:
                found.append(record_of(message, source))
        return found, size

    def _messages(self, spans: Mapping[int, range]) -> Iterator[Message]:
        """As `records`; a partition is finished by its last offset or by its end.

        The last offset may have no record: transactions end with a marker.
        """
        unfinished = {partition for partition, span in spans.items() if span}
        if not unfinished:
            return
        starts = [
            TopicPartition(self.topic.name, partition, spans[partition].start)
            for partition in unfinished
        ]
        for message in self._fetch(starts):
            partition, offset = message.partition() or 0, message.offset() or 0
            is_record = message.error() is None
            if is_record and offset in spans[partition]:
                yield message
            if not is_record or offset >= spans[partition].stop - 1:
                unfinished.discard(partition)
                if not unfinished:
                    return

    def _fetch(self, starts: list[TopicPartition]) -> Iterator[Message]:
        """Messages from there on: records, and an event at each partition's end."""
        self._consumer.assign(starts)
        answered_at = time.monotonic()
        try:
            while True:
                for message in self._arrived():
                    if (error := message.error()) is None or _is_end(error):
                        yield message
                        answered_at = time.monotonic()
                if time.monotonic() - answered_at > self._patience_s:
                    raise KafkaUnavailable(f"topic {self.topic.name} does not answer")
        finally:
            self._consumer.unassign()

    def _arrived(self) -> list[Message]:
        """At least one message, or none after FETCH_S.

        Not `consume(FETCHED, FETCH_S)`: it waits until it has so many.
        """
        first = self._consumer.consume(1, FETCH_S)
        return first + self._consumer.consume(FETCHED, 0) if first else []

    def _partitions(
        self, partitions: Collection[int] | None = None
    ) -> list[TopicPartition]:
        if partitions is None:
            partitions = range(self.topic.partitions)
        return [TopicPartition(self.topic.name, p, OFFSET_END) for p in partitions]

    def _watermarks(self, partition: int, cached: bool = False) -> tuple[int, int]:
        of = TopicPartition(self.topic.name, partition)
        timeout_s = min(READ_TIMEOUT_S, self._patience_s)
        return watermarks(self._consumer, of, timeout_s, cached)


def watermarks(
    consumer: Consumer,
    partition: TopicPartition,
    timeout_s: float = READ_TIMEOUT_S,
    cached: bool = False,
) -> tuple[int, int]:
    """The first offset that a partition has, and the one after its last.

    Where `cached`, as the last fetch reported them. Raises KafkaUnavailable.
    """
    try:
        return consumer.get_watermark_offsets(
            partition, timeout=timeout_s, cached=cached
        )
    except KafkaException as error:
        raise unavailable(error) from None


def record_of(message: Message, source: Source) -> Record:
    """A Kafka message as a record of this source."""
    kind, timestamp_ms = message.timestamp()
    return Record(
        topic=message.topic() or "",
        source=source,
        offset=-1 if (offset := message.offset()) is None else offset,
        timestamp_ms=timestamp_ms if kind else -1,
        key=message.key(),
        value=message.value(),
        headers=_headers(message),
    )


def _headers(message: Message) -> Headers:
    """The headers, or a note that they are lost.

    Another producer may name a header in bytes that are not UTF-8: then the client
    returns no header at all. The update does not depend on them.

    Called by `partial`: a plain call that was made often goes to C directly, and the
    client's error is then raised too late, outside of this `try`.
    """
    try:
        return cast(Headers, partial(message.headers)() or ())
    except (SystemError, UnicodeDecodeError):
        return _UNREADABLE_HEADERS


_UNREADABLE_HEADERS: Headers = (("headers-lost", b"a header's name is not UTF-8"),)
"""What a dead letter of such a record has instead of them."""


_UNREADABLE = {
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
}


def _is_end(error: KafkaError) -> bool:
    """Whether this is the end of a partition; raises where reading can't go on."""
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        raise LogMoved("the log was truncated while it was read: try again")
    if error.fatal() or error.code() in _UNREADABLE:
        raise KafkaUnavailable(f"the topic can't be read ({error.name()})")
    return error.code() == KafkaError._PARTITION_EOF
