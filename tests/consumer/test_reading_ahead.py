"""While one batch is written the next one is read, and neither is lost or written twice.

An attempt that is `held` stays under way until a test releases it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from profiles.consumer import batches, changes, loop, waiting
from profiles.consumer.changes import StartOver
from profiles.core import items
from profiles.core.updates import Source
from profiles.dynamodb.client import StoreRefused
from profiles.kafka.topics import KafkaUnavailable
from tests.consumer.world import (
    RECREATED,
    World,
    end,
    names,
    not_committed,
    throttled,
)
from tests.fakes import (
    TOPIC,
    Clock,
    FakeDynamoDB,
    FakeKafkaConsumer,
    FakeMessage,
    fake_time,
    message,
    record_of,
    refusal,
)


@pytest.fixture
def held(world):
    """Makes a world in which the write of these messages is under way."""

    def make(*messages: Any, owned: tuple[int, ...] = (0,)) -> World:
        w: World = world([*messages])
        w.kafka.assign(*owned)
        w.thread.held = True
        w.consumer.turn()
        w.thread.held = False
        assert w.table.items == {}
        return w

    return make


def written(w: World) -> set[str]:
    return {*w.table.items}


# Reading ahead


def test_while_a_batch_is_written_the_next_one_is_read(held):
    w = held(message(0, FirstName="John"))
    w.kafka.ready = [message(1, LastName="Doe"), w.thread.release]
    w.consumer.turn()
    assert w.kafka.ready == []
    w.turn()
    w.turn()
    assert w.shown() == {"FirstName": "John", "LastName": "Doe"}
    assert w.kafka.commits == [{0: 1}, {0: 2}]


def test_a_patient_has_one_write_at_a_time(held):
    w = held(message(0, FirstName="John"))
    w.kafka.ready = [
        message(1, FirstName="Jane"),
        lambda: submitted.append(w.thread.submitted),
        w.thread.release,
    ]
    submitted: list[int] = []
    w.consumer.turn()
    assert submitted == [1]
    assert w.thread.submitted == 2


def test_what_is_left_of_a_batch_is_written_before_the_next_one(held):
    """Written first, the later update would have the earlier one refused."""
    w = held(message(0, FirstName="John", LastName="Roe"))
    w.table.troubles = [throttled()]
    w.kafka.ready = [message(1, FirstName="Jane"), w.thread.release]
    w.turn()
    assert w.shown() == {"FirstName": "Jane", "LastName": "Roe"}


def test_nothing_is_committed_past_what_is_written(held):
    w = held(message(0))
    committed: list[Any] = []
    look = lambda: committed.append([*w.kafka.commits])  # noqa: E731
    w.kafka.ready = [message(1), look, hold(w), w.thread.release]
    w.consumer.turn()
    w.kafka.ready = [message(2), look, w.thread.release]
    w.consumer.turn()
    assert committed == [[], [{0: 1}]]


def hold(w: World) -> Callable[[], None]:
    """Have the next write stay under way."""
    return lambda: setattr(w.thread, "held", True)


def test_a_batch_is_committed_with_the_epoch_of_its_own_last_record(held):
    w = held(message(0))
    later = FakeMessage(1, b'{"PatientId": "1"}', leader_epoch=8)
    w.kafka.ready = [later, w.thread.release]
    w.consumer.turn()
    assert w.kafka.stored[0].leader_epoch == 7


def test_a_batch_that_is_read_or_written_is_not_caught_up_with(held):
    w = held(message(8))
    seen: list[bool] = []
    look = [lambda: seen.append(w.consumer.caught_up)]
    w.kafka.ready = [end(), *look, message(9), end(at=10), *look, w.thread.release]
    w.consumer.turn()
    for _ in range(3):
        w.turn()
    assert seen == [False, False]
    assert w.consumer.caught_up


def test_a_refused_write_stops_the_consumer_though_the_next_batch_is_read(held):
    w = held(message(0))
    w.table.troubles = [refusal("AccessDeniedException")]
    w.kafka.ready = [message(1), w.thread.release]
    with pytest.raises(StoreRefused):
        w.consumer.run(until=lambda: False)
    assert (w.table.items, w.kafka.commits) == ({}, [])


# A lone update, and bounds


def test_a_lone_update_does_not_wait_for_a_batch(world, clock):
    w = world([message(0)])
    began = clock.now
    w.consumer.turn()
    assert written(w) == {"1"}
    assert clock.now == began


def test_a_batch_takes_what_is_there(world):
    w = world([message(0)])
    w.kafka.ready = [message(offset) for offset in range(1, 300)]
    w.turn()
    assert w.kafka.commits == [{0: 300}]


BOUNDS = [("BATCH_RECORDS", 200), ("BATCH_BYTES", 200 * len(b"1" + message(0).value()))]


@pytest.mark.parametrize(("bound", "value"), BOUNDS)
def test_a_batch_is_bounded(world, monkeypatch, bound, value):
    monkeypatch.setattr(batches, bound, value)
    monkeypatch.setattr(loop, "FETCH_RECORDS", 1)
    w = world([message(0)])
    w.kafka.ready = [message(offset) for offset in range(1, 1000)]
    w.turn()
    assert w.kafka.commits == [{0: 200}]


@pytest.mark.parametrize(
    "large", [{"key": b"k" * 1000}, {"headers": [("h", b"v" * 1000)]}]
)
def test_large_keys_and_headers_are_of_a_batchs_bytes(monkeypatch, large):
    """Another producer may send a thousand of them with one byte of value."""
    monkeypatch.setattr(batches, "BATCH_BYTES", 2000)
    batch = batches.Batch()
    batch.add(record_of(b"1", **large), 7, TOPIC.partitions)
    assert batch.room
    batch.add(record_of(b"1", **large), 7, TOPIC.partitions)
    assert not batch.room


@pytest.mark.parametrize(("bound", "value"), BOUNDS)
def test_no_more_than_one_batch_is_read_ahead(held, monkeypatch, bound, value):
    monkeypatch.setattr(batches, bound, value)
    monkeypatch.setattr(loop, "FETCH_RECORDS", 1)
    w = held(message(0))
    w.kafka.ready = [message(offset) for offset in range(1, 1000)]
    w.thread.patience = 100
    w.consumer.turn()
    assert 999 - len(w.kafka.ready) == 200


# Partitions that are revoked


TWO = [message(0), message(8, "5", partition=3)]


def test_a_write_under_way_of_a_revoked_partition_is_not_committed(held):
    w = held(*TWO, owned=(3,))
    w.kafka.ready = [lambda: w.kafka.revoke(3), w.thread.release]
    w.turn()
    assert written(w) == {"1", "5"}
    assert w.kafka.commits == [{0: 1}]


def test_what_an_attempt_leaves_of_a_revoked_partition_is_not_tried_again(held):
    w = held(*TWO, owned=(3,))
    w.table.troubles = [throttled(), throttled()]
    w.kafka.ready = [lambda: w.kafka.revoke(3), w.thread.release]
    w.turn()
    assert written(w) == {"1"}
    assert w.kafka.commits == [{0: 1}]


def test_a_batch_that_is_revoked_whole_is_waited_for_all_the_same(held):
    """Its write is under way: no other one is to begin beside it."""
    w = held(message(0, FirstName="John"))
    w.kafka.ready = [
        lambda: w.kafka.revoke(0),
        lambda: w.kafka.assign(0),
        message(0, FirstName="John"),
        lambda: submitted.append(w.thread.submitted),
        w.thread.release,
    ]
    submitted: list[int] = []
    w.consumer.turn()
    assert submitted == [1]
    w.turn()
    assert w.kafka.commits == [{0: 1}]


def test_what_was_read_ahead_of_a_revoked_partition_is_dropped(held):
    w = held(message(0), owned=(3,))
    ahead = [
        message(1),
        message(8, "5", partition=3),
        FakeMessage(9, b"{", partition=3),
    ]
    w.kafka.ready = [*ahead, lambda: w.kafka.revoke(3), w.thread.release]
    w.consumer.turn()
    w.turn()
    w.turn()
    assert written(w) == {"1"}
    assert w.letters == []
    assert w.kafka.commits == [{0: 1}, {0: 2}]


def test_what_was_read_ahead_never_overtakes_what_comes_after_a_revocation(held):
    """Written first, offset 10 would have 8 refused as already applied."""
    w = held(message(0), owned=(3,))
    w.kafka.ready = [
        message(10, "5", partition=3),
        lambda: w.kafka.revoke(3),
        lambda: w.kafka.assign(3),
        message(8, "5", partition=3, FirstName="John"),
        message(10, "5", partition=3),
        w.thread.release,
    ]
    w.consumer.turn()
    w.turn()
    assert names(w.table, "5") == {"FirstName": "John"}


@pytest.mark.parametrize(("bound", "value"), BOUNDS)
def test_what_was_dropped_leaves_its_room(held, monkeypatch, bound, value):
    """The table throttles while a full batch is read ahead, and the session is lost."""
    monkeypatch.setattr(batches, bound, value)
    monkeypatch.setattr(loop, "FETCH_RECORDS", 1)
    w = held(message(0))
    w.table.troubles = [throttled()]

    def lose() -> None:
        w.kafka.revoke(0)
        w.kafka.assign(0)
        w.kafka.ready = [message(offset) for offset in range(1, 1000)]

    w.kafka.ready = [message(offset) for offset in range(1, 1000)]
    w.kafka.turns = [lose, [message(0)]]
    w.thread.patience = 300
    w.consumer.turn()
    w.turn()
    assert w.kafka.commits == [{0: 200}]


# Stopping and starting over


def test_stop_writes_what_is_under_way_and_drops_what_was_read_ahead(held):
    w = held(message(0, FirstName="John"))
    w.kafka.ready = [message(1, LastName="Doe"), w.consumer.stop]
    w.thread.patience = 100
    w.consumer.run(until=lambda: False)
    assert w.shown() == {"FirstName": "John"}
    assert w.kafka.commits == [{0: 1}]
    assert w.kafka.closed


def test_stop_reads_no_more(held):
    w = held(message(0))
    w.kafka.ready = [w.consumer.stop, message(1)]
    w.thread.patience = 100
    w.consumer.run(until=lambda: False)
    assert len(w.kafka.ready) == 1


def test_stop_leaves_a_write_that_does_not_end_in_time(held, clock):
    w = held(message(0))
    began = clock.now
    w.kafka.ready = [w.consumer.stop]
    closed_at: list[tuple[float, bool]] = []
    w.kafka.close = lambda: closed_at.append((clock.now, w.thread.is_shut_down))
    w.consumer.run(until=lambda: False)
    ((moment, waited_before),) = closed_at
    assert moment - began < waiting.GIVE_UP_S + 1
    assert not waited_before
    assert w.thread.is_shut_down
    assert w.kafka.commits == []


def test_a_consumer_that_starts_over_waits_for_its_write_to_end(held):
    """The next consumer begins with the same patients."""
    w = held(message(0, FirstName="John"))
    w.topics = [RECREATED]
    w.kafka.ready = [message(1), lambda: w.kafka.assign(3)]
    with pytest.raises(StartOver):
        w.consumer.run(until=lambda: False)
    assert w.thread.is_shut_down
    assert w.shown() == {"FirstName": "John"}
    assert w.kafka.commits == []


def test_a_batch_that_was_read_ahead_is_not_written_to_a_recreated_topic(held):
    w = held(message(0, FirstName="John"))
    w.kafka.ready = [message(1, FirstName="Jane"), w.thread.release]
    w.topics = [RECREATED]
    with pytest.raises(StartOver):
        w.consumer.turn()
    assert w.shown() == {"FirstName": "John"}
    assert w.kafka.commits == [{0: 1}]


def test_a_batch_that_was_read_ahead_is_not_written_to_a_replaced_table(held, clock):
    w = held(message(0, FirstName="John"))
    w.kafka.ready = [message(1, FirstName="Jane"), w.thread.release]
    w.stores = ["another"]
    clock.sleep(changes.TABLE_S)
    with pytest.raises(StartOver):
        w.consumer.turn()
    assert w.shown() == {"FirstName": "John"}


# All of it, in any order


class Killed(BaseException):
    """The process is gone, and with it what it knew."""


class LogKafka(FakeKafkaConsumer):
    """Two partitions of a log, whose records arrive one by one.

    `events` happen in consume(), one in each call; after them, records arrive. A commit
    is refused where not everything before it is in the table.
    """

    def __init__(self, clock: Clock, logs: dict[int, list[Any]], table: Any) -> None:
        super().__init__(clock, [])
        self.logs = logs
        self.table = table
        self.events: list[Callable[[], None]] = []
        self.positions: dict[int, int] = {}
        self.arrived = 0

    def arrive(self) -> None:
        self.arrived += 1

    def incremental_assign(self, partitions: Any) -> None:
        super().incremental_assign(partitions)
        self.positions |= {p.partition: p.offset for p in partitions}

    def revoke(self, *partitions: int) -> None:
        super().revoke(*partitions)
        for partition in partitions:
            self.positions.pop(partition, None)

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 0, cached: bool = False
    ) -> tuple[int, int]:
        return 0, len(self.logs[partition.partition])

    def consume(self, number: int, timeout: float) -> list[Any]:
        self.clock.now += timeout
        self.answer_commits()
        event = self.events.pop(0) if self.events else self.arrive
        event()
        found: list[Any] = []
        for partition in {*self.positions} - self.paused:
            at = self.positions[partition]
            end = min(self.arrived, at + number - len(found))
            taken = self.logs[partition][at:end]
            self.positions[partition] += len(taken)
            found += taken
        return found

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        for offset in offsets:
            assert offset.partition in self.owned
            fence = items.fence_name(Source(TOPIC.id, offset.partition))
            for m in self.logs[offset.partition][: offset.offset]:
                item = self.table.items[m.key().decode()]
                assert int(item[fence]["N"]) >= m.offset()
        super().commit(offsets, asynchronous)

    def is_done(self) -> bool:
        done = {p: self.stored[p].offset for p in self.stored}
        return all(done.get(p, 0) == len(log) for p, log in self.logs.items())


POSTED = st.lists(
    st.tuples(
        st.sampled_from(["1", "f", "5"]),
        st.dictionaries(
            st.sampled_from(["FirstName", "LastName"]), st.sampled_from("xyz")
        ),
    ),
    min_size=5,
    max_size=20,
)
EVENTS = [
    "nothing",
    "arrive",
    "hold",
    "release",
    "revoke",
    "regain",
    "throttle",
    "lose the answer",
    "fail the commit",
    "lose Kafka",
]
ENDS = ["stop", "start over", "kill"]
LIFE = st.builds(
    lambda events, end: [*events, end],
    st.lists(
        st.sampled_from(["arrive", "nothing"]) | st.sampled_from(EVENTS),
        min_size=10,
        max_size=40,
    ),
    st.sampled_from(ENDS),
)


def logs_of(posted: list[tuple[str, dict[str, str]]]) -> dict[int, list[Any]]:
    logs: dict[int, list[Any]] = {0: [], 3: []}
    for who, fields in posted:
        partition = 3 if who == "5" else 0
        log = logs[partition]
        log.append(message(len(log), who, partition, **fields))
    return logs


def kill() -> None:
    raise Killed


def happen(w: World, kafka: LogKafka, name: str) -> Callable[[], None]:
    """What an event does to a consumer."""

    def revoke() -> None:
        if 3 in kafka.owned:
            kafka.revoke(3)

    def regain() -> None:
        if 3 not in kafka.owned:
            kafka.assign(3)

    events: dict[str, Callable[[], None]] = {
        "nothing": lambda: None,
        "arrive": kafka.arrive,
        "hold": hold(w),
        "release": w.thread.release,
        "revoke": revoke,
        "regain": regain,
        "throttle": lambda: w.table.troubles.append(throttled()),
        "lose the answer": lambda: w.table.lost_answers.append(throttled()),
        "fail the commit": lambda: kafka.commit_errors.append(not_committed()),
        "lose Kafka": lambda: w.topics.append(KafkaUnavailable("away")),
        "stop": w.consumer.stop,
        "start over": lambda: w.topics.append(RECREATED),
        "kill": kill,
    }
    return events[name]


@given(POSTED, st.lists(LIFE, max_size=3))
def test_whatever_happens_while_it_reads_ahead_nothing_is_lost_or_undone(posted, lives):
    """Each life is a consumer of its own; the last one is left alone."""
    logs, table = logs_of(posted), FakeDynamoDB()
    stored: dict[int, TopicPartition] = {}
    for events in [*lives, []]:
        with pytest.MonkeyPatch.context() as patch, suppress(Killed, StartOver):
            clock = Clock()
            fake_time(clock, patch)
            kafka = LogKafka(clock, logs, table)
            kafka.stored = stored
            w = World(clock, [], table, kafka)
            w.thread.patience = 50
            kafka.assign(0, 3)
            kafka.events = [happen(w, kafka, name) for name in events]
            kafka.events.append(happen(w, kafka, "regain"))
            w.consumer.run(kafka.is_done)
    assert kafka.is_done()
    shown = {who: names(table, who) for who in table.items}
    folded: dict[str, dict[str, str]] = {}
    for who, fields in posted:
        folded[who] = {**folded.get(who, {}), **fields}
    assert shown == folded
