"""The flow: true figures, and a bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from profiles.core.records import Record
from profiles.core.updates import Receipt, Source
from profiles.kafka import flow, groups, topics
from profiles.kafka.flow import (
    FlowReader,
    KeptLetters,
    LettersReader,
    PartitionFlow,
)
from profiles.kafka.groups import Group
from profiles.kafka.reader import LogReader
from tests.fakes import TOPIC

KAFKA: Any = None
"""No client: what reads with it is replaced."""


@pytest.mark.parametrize(
    ("start", "end", "committed", "lag", "gap"),
    [
        (0, 10, 4, 6, 0),
        (0, 10, 10, 0, 0),
        (0, 10, None, 10, 0),
        (5, 10, None, 5, 5),
        (5, 10, 2, 5, 3),
    ],
    ids=["behind", "at the end", "nothing yet", "retained only", "truncated"],
)
def test_the_lag_is_retained_and_the_gap_is_gone(start, end, committed, lag, gap):
    partition = PartitionFlow(0, start, end, committed, "")
    assert (partition.lag, partition.gap) == (lag, gap)


@pytest.fixture
def read(monkeypatch):
    """Reads the flow of a log and a group that the test describes."""
    state = SimpleNamespace(
        topic=TOPIC,
        spans={0: range(0, 10)},
        committed={0: 4},
        group=Group("STABLE", {0: "a"}),
    )
    monkeypatch.setattr(topics, "configured", lambda admin: state.topic)
    monkeypatch.setattr(groups, "describe_group", lambda *_: state.group)
    monkeypatch.setattr(LogReader, "spans", lambda log: state.spans)
    monkeypatch.setattr(LogReader, "committed", lambda log, store: state.committed)
    reader = FlowReader(KAFKA, lambda: "table-1")

    def read(**given):
        vars(state).update(given)
        return reader.read(KAFKA)

    return read


def test_the_flow_adds_its_partitions_up(read):
    seen = read(
        spans={0: range(2, 10), 1: range(0, 3)}, group=Group("STABLE", {0: "a"})
    )
    assert (seen.retained, seen.lag, seen.consumers) == (11, 9, 1)
    assert [each.owner for each in seen.partitions] == ["a", ""]
    sample = seen.samples[-1]
    assert (sample.accepted, sample.settled) == (13, 4)


def test_owners_that_the_broker_does_not_report_are_unknown(read):
    seen = read(group=Group("STABLE", None))
    assert (seen.consumers, seen.partitions[0].owner) == (None, None)


def test_offsets_of_another_table_are_ignored(monkeypatch, read):
    def committed(log: LogReader, store: str | None) -> dict[int, int]:
        return {0: 4} if store == "table-1" else {0: 10}

    monkeypatch.setattr(LogReader, "committed", committed)
    assert read().lag == 6


def test_samples_are_kept_for_some_minutes(read, monkeypatch):
    read()
    monkeypatch.setattr(flow, "SAMPLED_S", 0)
    assert len(read().samples) == 1


def test_a_recreated_topic_has_samples_of_its_own(read):
    read()
    recreated = topics.Topic(TOPIC.name, "topic-2", TOPIC.partitions)
    assert len(read(topic=recreated).samples) == 1


class LettersLog:
    """A dead-letter topic that grows; from `noted` on, its records are notes.

    A note says that the letter was redriven which stands so many records before it.
    """

    def __init__(self) -> None:
        self.size = 0
        self.noted = 10**9
        self.read = 0

    def spans(self) -> dict[int, range]:
        return {0: range(self.size)}

    def records(self, spans: dict[int, range]) -> Iterator[Record]:
        for offset in spans[0]:
            self.read += 1
            headers = self._note(offset) if offset >= self.noted else letter(offset)
            ours = [(f"dead-letter.{n}", t.encode()) for n, t in headers.items()]
            source = Source("dead letters", 0)
            yield Record("dlq", source, offset, offset, b"1", b"{", ours)

    def _note(self, offset: int) -> dict[str, str]:
        return {**place(offset - self.noted), "redriven-as": "a.0.1"}


def letter(offset: int) -> dict[str, str]:
    """The headers of a dead letter."""
    where = {"topic": TOPIC.name, **place(offset), "timestamp-ms": "1"}
    return {"code": "not_json", "detail": "", **where}


def place(offset: int) -> dict[str, str]:
    return {"topic-id": TOPIC.id, "partition": "0", "offset": str(offset)}


@pytest.fixture
def kept(monkeypatch):
    """Reads the letters of a log of so many records; gives log and reader too."""
    log = LettersLog()
    monkeypatch.setattr(topics, "describe", lambda *_: TOPIC)
    monkeypatch.setattr(flow, "LogReader", lambda *_: log)
    reader = LettersReader(KAFKA)

    def read(size: int) -> KeptLetters:
        log.size = size
        return reader.read(KAFKA)

    return SimpleNamespace(read=read, log=log, reader=reader)


def test_of_the_dead_letters_the_newest_are_read_and_all_are_counted(kept):
    seen = kept.read(100_000)
    assert (seen.retained, seen.unread) == (100_000, 100_000 - flow.NEWEST_LETTERS)
    assert kept.log.read == len(seen.letters) == flow.NEWEST_LETTERS
    assert [letter.receipt.offset for letter in seen.letters[:2]] == [99_999, 99_998]


def test_letters_before_many_notes_of_redriving_are_found(kept):
    kept.log.noted = flow.NEWEST_LETTERS
    seen = kept.read(2 * flow.NEWEST_LETTERS)
    assert len(seen.letters) == len(seen.redriven) == flow.NEWEST_LETTERS
    assert seen.redriven[Receipt(Source(TOPIC.id, 0), 0)] == "a.0.1"
    assert seen.unread == 0


def test_letters_that_are_too_far_back_are_not_called_absent(kept):
    kept.log.noted = flow.MOST_LETTERS
    seen = kept.read(2 * flow.MOST_LETTERS)
    assert (seen.letters, seen.unread) == ([], flow.MOST_LETTERS)


def test_reading_the_dead_letters_again_reads_what_has_come(kept):
    kept.read(100)
    assert len(kept.read(103).letters) == 103
    assert kept.log.read == 103


@pytest.mark.parametrize("noted", [10**9, 0], ids=["letters", "notes"])
def test_however_many_dead_letters_come_few_are_kept_in_memory(kept, noted):
    kept.log.noted = noted
    sizes = []
    for size in range(0, 8 * flow.MOST_LETTERS, flow.NEWEST_LETTERS):
        kept.read(size)
        sizes.append(flow._kept(kept.reader._reader))
    assert max(sizes) <= 2 * flow.MOST_LETTERS + flow.NEWEST_LETTERS
    assert sizes[-1] < max(sizes)


def test_the_dead_letters_of_a_recreated_topic_are_read_anew(kept, monkeypatch):
    kept.read(5)
    recreated = topics.Topic(TOPIC.name, "topic-2", TOPIC.partitions)
    monkeypatch.setattr(topics, "describe", lambda *_: recreated)
    assert len(kept.read(2).letters) == 2
