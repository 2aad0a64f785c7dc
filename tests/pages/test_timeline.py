"""The timeline: one patient's records, newest first, and what became of each."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from profiles.core.records import Record, partition_of
from profiles.core.updates import Source
from profiles.pages import timeline
from profiles.pages.timeline import Budget, Fate
from tests.fakes import NOW_MS, TOPIC, Clock, record_of

PARTITION = partition_of("1", TOPIC.partitions)
SOURCE = Source(TOPIC.id, PARTITION)
FENCE = f"_fence:{TOPIC.id}:{PARTITION}"


class FakeLog:
    """One partition as a list; `first` offsets of it are no longer retained."""

    topic = TOPIC

    def __init__(self, *values: bytes, key: bytes = b"1", first: int = 0) -> None:
        self.kept = [
            replace(record_of(value, key, offset=offset), source=SOURCE)
            for offset, value in enumerate(values)
        ]
        self.first = first
        self.read: list[int] = []

    def spans(self, partitions: list[int]) -> dict[int, range]:
        return {p: range(self.first, len(self.kept)) for p in partitions}

    def search(
        self, key: bytes, partition: int, span: range
    ) -> tuple[list[Record], int]:
        assert partition == PARTITION
        self.read += span
        records = self.kept[span.start : span.stop]
        size = sum(len(record.value or b"") for record in records)
        return [record for record in records if record.key == key], size


def read(log: Any, item: Any = None, committed: int = 0, **options: Any):
    return timeline.read(log, "1", item, committed, **options)


def item_up_to(offset: int) -> Any:
    return {"PatientId": {"S": "1"}, FENCE: {"N": str(offset)}}


def offsets(story: timeline.Timeline) -> list[int]:
    return [entry.receipt.offset for entry in story.entries]


A = b'{"PatientId": "1", "FirstName": "A"}'
B = b'{"PatientId": "1", "FirstName": null, "Sex": "Male"}'


def test_the_newest_record_comes_first_with_what_it_changes():
    story = read(FakeLog(A, B))
    assert offsets(story) == [1, 0]
    assert [entry.changes for entry in story.entries] == [
        {"FirstName": None, "Sex": "Male"},
        {"FirstName": "A"},
    ]
    assert story.entries[0].timestamp_ms == NOW_MS
    assert not story.cut


def test_records_of_other_patients_are_left_out():
    log = FakeLog(A, B)
    log.kept[1] = replace(log.kept[1], key=b"2")
    assert offsets(read(log)) == [0]


def test_a_record_up_to_the_fence_is_applied_and_a_later_one_waits():
    story = read(FakeLog(A, A, A), item_up_to(1), committed=2)
    assert [e.fate for e in story.entries] == [
        Fate.WAITING,
        Fate.APPLIED,
        Fate.APPLIED,
    ]


def test_without_an_item_everything_waits():
    assert {e.fate for e in read(FakeLog(A, B)).entries} == {Fate.WAITING}


def test_what_is_no_update_is_a_dead_letter_once_it_is_committed():
    log = FakeLog(b"no JSON", b"no JSON")
    later, earlier = read(log, committed=1).entries
    assert (earlier.fate, later.fate) == (Fate.DEAD_LETTERED, Fate.WAITING)
    assert earlier.reason.startswith("not_json: ")


def test_an_update_that_is_committed_and_not_in_the_item_is_missing():
    (entry,) = read(FakeLog(A), committed=1).entries
    assert entry.fate is Fate.MISSING


def test_the_fence_of_another_topic_applies_nothing():
    item: Any = {"PatientId": {"S": "1"}, f"_fence:topic-0:{PARTITION}": {"N": "9"}}
    assert read(FakeLog(A), item).entries[0].fate is Fate.WAITING


def test_other_partitions_that_the_item_includes_records_of_are_named():
    item = item_up_to(1)
    assert read(FakeLog(A, A), item).strays == []
    item |= {f"_fence:{TOPIC.id}:{n}": {"N": "5"} for n in (7, 4)}
    item |= {"_fence:topic-0:8": {"N": "5"}, "_fence:x": {"N": "5"}}
    assert read(FakeLog(A, A), item).strays == [4, 7]


def test_the_newest_ten_records_are_found_among_thirty_thousand_others():
    log = FakeLog(*[A] * 30_000, key=b"2")
    for offset in range(1500, 30_000, 3000):
        log.kept[offset] = replace(log.kept[offset], key=b"1")
    story = read(log, budget=Budget(seconds=60))
    assert offsets(story) == [*range(28_500, 0, -3000)]
    assert not story.cut


def test_each_record_is_read_once_in_few_stretches():
    log = FakeLog(*[A] * 30_000, key=b"2")
    stretches = []
    search = log.search

    def counted(key, partition, span):
        stretches.append(span)
        return search(key, partition, span)

    log.search = counted  # type: ignore[method-assign]
    read(log, budget=Budget(seconds=60))
    assert sorted(log.read) == [*range(30_000)]
    assert len(stretches) == 4
    assert [span.stop for span in stretches[1:]] == [
        span.start for span in stretches[:-1]
    ]


def test_reading_goes_backwards_until_the_time_is_spent_and_says_so():
    log = FakeLog(*[A] * 5000)
    story = read(log, budget=Budget(seconds=-1, entries=10_000))
    assert story.cut
    assert story.read == range(4500, 5000)
    assert len(story.entries) == len(log.read) == timeline.FIRST_STRETCH


def test_a_stretch_is_no_longer_than_the_time_that_is_left_allows(monkeypatch):
    """A millisecond a record, and three seconds."""
    clock = Clock()
    monkeypatch.setattr(timeline, "time", clock)
    log = FakeLog(*[A] * 30_000, key=b"2")
    search = log.search

    def slow(key, partition, span):
        clock.sleep(len(span) / 1000)
        return search(key, partition, span)

    log.search = slow  # type: ignore[method-assign]
    story = read(log, budget=Budget(seconds=3, started=clock.monotonic()))
    assert len(story.read) == pytest.approx(3000, abs=2)


def test_the_clock_starts_when_the_span_is_known(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timeline, "time", clock)
    log = FakeLog(*[A] * 2000, key=b"2")
    spans = log.spans

    def slow(partitions):
        clock.sleep(30)
        return spans(partitions)

    log.spans = slow  # type: ignore[method-assign]
    assert len(read(log).read) == 2000


def test_reading_stops_when_the_bytes_are_spent():
    log = FakeLog(*[A] * 5000)
    budget = Budget(bytes=1200 * len(A), entries=10_000)
    assert len(read(log, budget=budget).read) == pytest.approx(1200, abs=2)


def test_no_more_than_the_entries_of_a_page_are_shown_and_the_rest_is_not_lost():
    log = FakeLog(*[A] * 300)
    story = read(log)
    assert offsets(story) == [*range(299, 199, -1)]
    older = read(log, before=story.read.start)
    assert offsets(older) == [*range(199, 99, -1)]


def test_continuing_reaches_the_first_retained_record():
    log = FakeLog(*[A] * 3500, key=b"2", first=10)
    log.kept[10] = replace(log.kept[10], key=b"1")
    story, steps = read(log, budget=Budget(seconds=-1)), 1
    while story.cut:
        story = read(log, before=story.read.start, budget=Budget(seconds=-1))
        steps += 1
    assert (offsets(story), steps) == ([10], 7)


@pytest.mark.parametrize("before", [0, 10, 10_000])
def test_reading_can_begin_before_any_offset(before):
    log = FakeLog(*[A] * 20, first=5)
    story = read(log, before=before)
    assert offsets(story) == [*range(min(before, 20) - 1, 4, -1)]
    assert not story.cut
