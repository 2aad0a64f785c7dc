"""The log: a topic's retained records, read from outside any group. Never writes.

In: a reader and a topic. Out: which offsets the log retains, their records, and what a
group committed of them. Knows no field and no table.
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
from profiles.core.updates import Incarnation, Receipt, Source
from profiles.kafka import groups
from profiles.kafka.groups import READ_TIMEOUT_S, RESTART_S
from profiles.kafka.topics import KafkaUnavailable, Topic, unavailable

FETCHED = 1000
FETCH_S = 0.1


class LogMoved(Exception):
    """The log was truncated, or the topic recreated, while it was read: read again."""


class LogReader:
    """One topic as a reader that is ours alone sees it.

    Kafka may be silent for as long as `patience_s`.
    """

    def __init__(
        self, reader: Consumer, topic: Topic, patience_s: float = RESTART_S
    ) -> None:
        self._reader = reader
        self._patience_s = patience_s
        self.topic = topic

    def committed(self, store: str | None) -> dict[int, int]:
        """Where the reader's group goes on with this topic and table, as far as it has.

        As the consumer judges it: an offset marked otherwise is of another incarnation
        of topic or table, and one without a mark an operator's. Where the table's is
        not known, each counts.
        """
        places = groups.committed(
            self._reader, self._positions(OFFSET_END), self._patience_s
        )
        return {
            place.partition: place.offset
            for place in places
            if place.offset >= 0 and self._is_ours(place.metadata, store)
        }

    def _is_ours(self, mark: str | None, store: str | None) -> bool:
        if not mark:
            return True
        by = Incarnation.parse(mark)
        return by.topic_id == self.topic.id and store in (None, by.table_id)

    def spans(self, partitions: Collection[int] | None = None) -> dict[int, range]:
        """The retained offsets of each partition, or of these, as they are now.

        The end is where a fetch meets it: ListOffsets tells too little on some
        brokers. Raises KafkaUnavailable.
        """
        ends: dict[int, int] = {}
        starts = self._positions(OFFSET_END, partitions)
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
        left = {partition for partition, span in spans.items() if span}
        starts = [
            TopicPartition(self.topic.name, partition, spans[partition].start)
            for partition in left
        ]
        for message in self._fetch(starts) if starts else ():
            partition, offset = message.partition() or 0, message.offset() or 0
            if message.error() is None and offset in spans[partition]:
                yield record_of(message, Source(self.topic.id, partition))
            if message.error() is not None or offset >= spans[partition].stop - 1:
                left.discard(partition)
            if not left:
                break

    def record(self, place: Receipt) -> Record | None:
        """The one record at a place; None where the log does not have it."""
        span = range(place.offset, place.offset + 1)
        try:
            return next(self.records({place.source.partition: span}), None)
        except LogMoved:
            return None

    def _fetch(self, starts: list[TopicPartition]) -> Iterator[Message]:
        """Messages from there on; besides records only ends of partitions."""
        self._reader.assign(starts)
        heard_at = time.monotonic()
        try:
            while True:
                for message in self._reader.consume(FETCHED, FETCH_S):
                    if (error := message.error()) is None or _is_end(error):
                        yield message
                        heard_at = time.monotonic()
                if time.monotonic() - heard_at > self._patience_s:
                    raise KafkaUnavailable(f"topic {self.topic.name} does not answer")
        finally:
            self._reader.unassign()

    def _positions(
        self, offset: int, partitions: Collection[int] | None = None
    ) -> list[TopicPartition]:
        if partitions is None:
            partitions = range(self.topic.partitions)
        return [TopicPartition(self.topic.name, p, offset) for p in partitions]

    def _watermarks(self, partition: int, cached: bool = False) -> tuple[int, int]:
        place = TopicPartition(self.topic.name, partition)
        patience_s = min(READ_TIMEOUT_S, self._patience_s)
        return watermarks(self._reader, place, patience_s, cached)


def watermarks(
    reader: Consumer,
    partition: TopicPartition,
    timeout_s: float = READ_TIMEOUT_S,
    cached: bool = False,
) -> tuple[int, int]:
    """The first offset that a partition has, and the one after its last.

    Where `cached`, as the last fetch reported them. Raises KafkaUnavailable.
    """
    try:
        return reader.get_watermark_offsets(partition, timeout=timeout_s, cached=cached)
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
    """A foreign producer may name a header in bytes that are no text; the client then
    gives none of them, and they are no part of the update.

    Called by `partial`: a plain call that was made often goes to C directly, and the
    client's error is then seen too late, outside of this `try`.
    """
    try:
        return cast(Headers, partial(message.headers)() or ())
    except (SystemError, UnicodeDecodeError):
        return _UNREADABLE_HEADERS


_UNREADABLE_HEADERS: Headers = (("headers-lost", b"a header's name is not UTF-8"),)
"""What a dead letter of such a record says instead of them."""


_UNREADABLE = {
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
}


def _is_end(error: KafkaError) -> bool:
    """Whether this is the end of a partition; raises where it can't be read on."""
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        raise LogMoved("the log was truncated while it was read: try again")
    if error.fatal() or error.code() in _UNREADABLE:
        raise KafkaUnavailable(f"the topic can't be read ({error.name()})")
    return error.code() == KafkaError._PARTITION_EOF
