"""The consumer: a batch is applied, or waited for, and only then committed.

Time stands still but for what the fake consumer's `consume` and `sleep` pass.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from threading import Event
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from profiles.consumer import changes, loop, waiting
from profiles.consumer.changes import StartOver
from profiles.consumer.reading import MemberRefused, RecordsMissing
from profiles.core import items
from profiles.core.records import Code
from profiles.core.updates import Incarnation, MergedUpdate, Source
from profiles.dynamodb.client import StoreRefused
from profiles.dynamodb.writer import TableWriter
from profiles.kafka.groups import Group
from profiles.kafka.topics import KafkaUnavailable
from profiles.runtime import metrics
from tests.consumer.world import (
    GROUP,
    MARK,
    OURS,
    RECREATED,
    World,
    end,
    names,
    not_committed,
    throttled,
)
from tests.fakes import (
    NOW_MS,
    SOURCE,
    TOPIC,
    Clock,
    FakeDynamoDB,
    FakeMessage,
    fake_time,
    message,
    refusal,
    update_at,
)

BAD = {
    "not JSON": b"{",
    "null": b"null",
    "no value": None,
    "an unknown field": b'{"PatientId":"1","Shoe":"44"}',
    "another key": b'{"PatientId":"2"}',
}


# Commit after write


def test_a_batch_is_applied_and_then_committed(world):
    w = world([message(4, FirstName="John"), message(5, LastName="Doe")])
    w.turn()
    assert w.shown() == {"FirstName": "John", "LastName": "Doe"}
    assert w.kafka.commits == [{0: 6}]


def test_the_write_comes_before_the_commit(world):
    w = world([message(0, FirstName="John")])
    w.kafka.commit = lambda offsets, asynchronous: order.append([*w.table.items])
    order: list[list[str]] = []
    w.turn()
    assert order == [["1"]]


def test_every_partition_is_committed_after_its_last_record(world):
    w = world([message(4), message(7, "5", partition=3), message(5)])
    w.kafka.assign(3)
    w.turn()
    assert w.kafka.commits == [{0: 6, 3: 8}]


def test_the_commit_names_the_topic_and_the_table(world):
    w = world([message(0)])
    w.turn()
    assert w.kafka.stored[0].metadata == MARK


def test_an_empty_turn_commits_nothing(world):
    w = world([])
    w.turn()
    assert w.kafka.commits == []


def test_a_throttled_write_commits_nothing_until_it_is_applied(world):
    committed_meanwhile: list[Any] = []
    w = world([message(0, FirstName="John")])
    w.kafka.turns += [lambda: committed_meanwhile.append([*w.kafka.commits])]
    w.table.troubles = [throttled()]
    w.turn()
    assert committed_meanwhile == [[]]
    assert w.shown() == {"FirstName": "John"}
    assert w.kafka.commits == [{0: 1}]


def test_a_refused_write_stops_the_consumer_and_commits_nothing(world):
    w = world([message(0)])
    w.table.troubles = [refusal("AccessDeniedException")]
    with pytest.raises(StoreRefused):
        w.turn()
    assert w.kafka.commits == []


def test_only_what_is_left_is_tried_again(world):
    w = world([message(0, "1"), message(1, "f"), message(2, "n")])
    w.table.troubles = [None, throttled(), None, throttled()]
    w.turn()
    assert {*w.table.items} == {"1", "f", "n"}
    assert w.kafka.commits == [{0: 3}]


def test_a_commit_that_fails_is_due_again_in_the_next_turn(world):
    w = world([message(0)], [])
    w.kafka.commit_errors = [not_committed()]
    w.turn()
    assert w.kafka.commits == []
    assert not w.consumer.caught_up
    w.turn()
    assert w.kafka.commits == [{0: 1}]


def test_a_commit_that_the_client_refuses_is_due_again(world):
    def refuse(offsets, asynchronous):
        w.kafka.commit = commit
        raise KafkaException(KafkaError(KafkaError._STATE))

    w: Any = world([message(0)], [])
    commit, w.kafka.commit = w.kafka.commit, refuse
    w.turn()
    assert w.kafka.commits == []
    w.turn()
    assert w.kafka.commits == [{0: 1}]


def test_a_commit_for_one_partition_that_fails_is_due_again(world):
    w = world([message(0)], [])
    error = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
    w.turn()
    refused: Any = SimpleNamespace(partition=0, offset=1, error=error)
    w.kafka.commit_answers = [(None, [refused])]
    w.turn()
    assert w.kafka.commits == [{0: 1}, {0: 1}]


def test_while_a_commit_is_under_way_the_next_batch_is_applied(world):
    w = world([message(0)], [message(1)], [])
    w.kafka.silent = True
    w.turn()
    w.turn()
    assert w.table.items["1"][items.fence_name(SOURCE)] == {"N": "1"}
    assert w.kafka.commits == [{0: 1}]
    w.kafka.silent = False
    w.turn()
    assert w.kafka.commits == [{0: 1}, {0: 2}]


# Dead letters


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_a_poison_record_anywhere_in_a_batch_holds_up_nothing(world, position, value):
    batch = [message(offset, FirstName=f"at {offset}") for offset in range(4)]
    batch[position] = FakeMessage(position, value)
    w = world(batch)
    w.turn()
    assert [offset for offset, _ in w.letters] == [position]
    assert w.shown() == {"FirstName": "at 2" if position == 3 else "at 3"}
    assert w.kafka.commits == [{0: 4}]


@pytest.mark.parametrize(
    "timestamp", [(0, 5), (1, -1), (2, 2**63 - 1)], ids=["absent", "negative", "huge"]
)
def test_a_record_without_a_moment_is_a_dead_letter(world, timestamp):
    w = world([FakeMessage(0, b'{"PatientId":"1"}', timestamp=timestamp)])
    w.turn()
    assert w.letters == [(0, "bad_timestamp")]


def test_an_update_outside_its_patients_partition_is_a_dead_letter(world):
    w = world([message(0, FirstName="John"), message(1, "5", FirstName="Jane")])
    w.turn()
    assert w.letters == [(1, "wrong_partition")]
    assert {*w.table.items} == {"1"}
    assert w.kafka.commits == [{0: 2}]


def dead_lettered(code: str) -> float:
    labels = {"code": code}
    counted = REGISTRY.get_sample_value("profile_records_dead_lettered_total", labels)
    assert counted is not None  # before there is any, too
    return counted


def test_dead_letters_are_counted_by_reason_once_they_are_acknowledged(world):
    before = {code: dead_lettered(code) for code in get_args(Code)}
    w = world([FakeMessage(0, b"{"), message(1, "5"), message(2, "9")])
    w.letters_refused = 1
    w.turn()
    after = {code: dead_lettered(code) - before[code] for code in before}
    grown = {code: times for code, times in after.items() if times}
    assert grown == {"not_json": 1, "wrong_partition": 2}


def test_a_dead_letter_that_is_not_acknowledged_commits_nothing(world):
    committed_meanwhile: list[Any] = []
    w = world([message(0), FakeMessage(1, b"{")])
    w.kafka.turns += [lambda: committed_meanwhile.append([*w.kafka.commits])]
    w.letters_refused = 1
    w.turn()
    assert committed_meanwhile == [[]]
    assert w.letters == [(1, "not_json")]
    assert w.kafka.commits == [{0: 2}]


# Waiting for the store


def test_while_waiting_the_assignment_is_paused_and_then_resumed(world):
    paused_meanwhile: list[Any] = []
    w = world([message(0)])
    w.kafka.turns += [lambda: paused_meanwhile.append({*w.kafka.paused})]
    w.table.troubles = [throttled()]
    w.turn()
    assert paused_meanwhile == [{0}]
    assert w.kafka.paused == set()


def test_records_that_arrive_while_waiting_are_kept_for_the_next_turn(world):
    w = world([message(0, FirstName="John")], [message(1, LastName="Doe")])
    w.table.troubles = [throttled()]
    w.turn()
    assert w.shown() == {"FirstName": "John"}
    assert w.kafka.commits == [{0: 1}]
    assert not w.consumer.caught_up
    w.turn()
    w.turn()
    assert w.shown() == {"FirstName": "John", "LastName": "Doe"}
    assert w.kafka.commits == [{0: 1}, {0: 2}]


def test_a_partition_assigned_while_waiting_is_paused_and_resumed_with_the_rest(world):
    paused_meanwhile: list[Any] = []

    def assign():
        w.kafka.assign(5)
        paused_meanwhile.append({*w.kafka.paused})
        return [message(0, "9", partition=5)]

    w = world([message(0)], assign)
    w.table.troubles = [throttled()]
    w.turn()
    assert paused_meanwhile == [{0, 5}]
    assert w.kafka.paused == set()
    w.turn()
    assert {*w.table.items} == {"1", "9"}


def test_a_pause_that_outlived_a_revocation_is_lifted(world):
    def lose_and_regain():
        w.kafka.revoke(0)
        w.kafka.assign(0)

    w = world([message(0), message(0, "5", partition=3)], lose_and_regain)
    w.kafka.assign(3)
    w.table.troubles = [throttled(), throttled()]
    w.turn()
    assert w.kafka.paused == set()


def test_a_partition_that_was_lost_while_paused_is_read_when_it_comes_back(world):
    def lose():
        w.kafka.revoke(0)

    w = world([message(0)], lose)
    w.table.troubles = [throttled()]
    w.turn()
    w.kafka.assign(0)
    assert w.kafka.paused == set()


def test_a_revoked_partition_is_dropped_from_batch_backlog_and_commit(world):
    def revoke():
        w.kafka.revoke(3)
        return [message(1, FirstName="later")]

    w = world(
        [message(0), message(8, "5", partition=3), FakeMessage(9, b"{", partition=3)],
        [message(10, "7", partition=3)],
        revoke,
    )
    w.kafka.assign(3)
    w.letters_refused = 100
    w.table.troubles = [throttled()] * 4
    w.turn()
    w.turn()
    w.turn()
    assert {*w.table.items} == {"1"}
    assert w.letters == []
    assert w.kafka.commits == [{0: 1}, {0: 2}]


def assert_begun_anew(w: World, trouble: int) -> None:
    """What came of partition 3 while the table was in trouble is not written."""
    w.kafka.assign(3)
    w.table.troubles = [throttled()] * trouble
    w.turn()
    w.kafka.turns = [[message(8, "5", partition=3, FirstName="John")]]
    w.turn()
    w.turn()
    assert names(w.table, "5") == {"FirstName": "John"}
    assert w.kafka.commits == [{0: 1}, {3: 9}]


def test_records_from_before_a_revocation_never_overtake_those_after_it(world):
    """Written first, offset 10 would have 8 and 9 refused as already applied."""

    def lose_and_regain():
        w.kafka.revoke(3)
        w.kafka.assign(3)

    w = world([message(0)], [message(10, "5", partition=3)], lose_and_regain)
    assert_begun_anew(w, trouble=3)


def test_records_that_come_with_the_revocation_of_their_partition_are_left(world):
    """Written when it is ours again, offset 10 would have 8 and 9 refused."""

    def lose():
        w.kafka.revoke(3)
        return [message(10, "5", partition=3)]

    def regain():
        w.kafka.assign(3)

    w = world([message(0)], lose, regain)
    assert_begun_anew(w, trouble=4)


def test_what_is_due_for_a_revoked_partition_is_not_committed(world):
    def revoke():
        w.kafka.revoke(3)

    w = world([message(0), message(7, "5", partition=3)], revoke)
    w.kafka.assign(3)
    w.kafka.commit_errors = [not_committed()]
    w.turn()
    w.turn()
    assert w.kafka.commits == [{0: 1}]


def test_the_pauses_between_tries_grow_up_to_a_bound(world, clock):
    w = world([message(0)])
    moments = []

    def remember(**call):
        moments.append(clock.now)
        if len(moments) < 12:
            raise throttled()
        return {"Responses": [{}]}

    w.table.batch_execute_statement = remember
    w.turn()
    pauses = [later - sooner for sooner, later in pairwise(moments)]
    assert pauses[0] <= waiting.FIRST_PAUSE_S
    assert waiting.LONGEST_PAUSE_S / 2 <= pauses[-1] <= waiting.LONGEST_PAUSE_S


def test_the_lag_grows_while_the_table_is_waited_for(world):
    def note():
        lags.append(
            REGISTRY.get_sample_value("profile_lag_records", {"partition": "0"})
        )

    lags: list[float | None] = []
    w = world([message(49)], *[note] * 40)
    w.kafka.ends = {0: 190}  # records that are there, and not fetched
    w.table.troubles = [throttled()] * 8
    w.turn()
    assert lags[-1] == 150  # of what the log holds, nothing is settled
    note()
    assert lags[-1] == 40


# Figures


FIGURES = {
    "applied": "profile_updates_applied_total",
    "already": "profile_updates_already_applied_total",
    "coalesced": "profile_updates_coalesced_total",
    "retried": "profile_writes_retried_total",
    "batches": "profile_batch_records_count",
    "records": "profile_batch_records_sum",
    "written": "profile_update_age_seconds_count",
    "age": "profile_update_age_seconds_sum",
}


def figures() -> dict[str, float]:
    return {key: REGISTRY.get_sample_value(FIGURES[key]) or 0 for key in FIGURES}


def moved(turn: Callable[[], None]) -> dict[str, float]:
    """By how much a turn moves each figure that it moves."""
    before = figures()
    turn()
    after = figures()
    return {key: after[key] - before[key] for key in after if after[key] > before[key]}


@pytest.fixture
def soon(clock):
    """It is 2.5 s after the record at offset 0 was produced."""
    clock.now = NOW_MS / 1000 + 2.5


def test_a_write_that_changes_an_item_is_counted_with_its_age(soon, world):
    w = world([message(0, FirstName="John")])
    change = moved(w.turn)
    assert change.pop("age") == pytest.approx(2.5, abs=0.01)
    assert change == {"applied": 1, "batches": 1, "records": 1, "written": 1}


def test_a_write_that_the_fence_refused_is_counted_apart(soon, world):
    w = world([message(0)])
    w.table.update_item(**items.upsert("t", update_at(5), OURS))
    change = moved(w.turn)
    assert (change["already"], change["written"]) == (1, 1)
    assert "applied" not in change


def test_updates_of_one_patient_are_counted_as_folded_into_one_write(world):
    w = world([message(0), message(1), message(2, "f"), message(3)])
    change = moved(w.turn)
    assert (change["coalesced"], change["applied"]) == (2, 2)
    assert (change["batches"], change["records"]) == (1, 4)


def test_a_write_that_is_left_for_a_next_attempt_is_counted_each_time(world):
    w = world([message(0)])
    w.table.troubles = [throttled()] * 3
    change = moved(w.turn)
    assert (change["retried"], change["applied"], change["written"]) == (3, 1, 1)
    assert change["batches"] == 1


def test_the_lag_is_what_the_log_has_past_the_batch(world):
    def lag() -> float | None:
        return REGISTRY.get_sample_value("profile_lag_records", {"partition": "0"})

    w = world([message(49)])
    w.turn()
    assert lag() == 40  # the log ends at 90
    w.kafka.revoke(0)
    assert lag() is None  # its next owner's figure


def test_every_figure_of_the_consumer_is_tried():
    web = {"accepted", "refused", "acknowledgement"}
    known = {
        name
        for name, value in vars(metrics).items()
        if isinstance(value, MetricWrapperBase) and name not in web
    }
    tried = {"applied", "already", "coalesced", "retried", "age", "batch_records"}
    assert known == {*tried, "lag", "dead_lettered"}


# Stopping


def test_stop_finishes_the_batch_it_has(world):
    w = world([message(0)])
    w.table.troubles = [throttled()]
    w.kafka.turns += [w.consumer.stop]
    w.consumer.run(until=lambda: False)
    assert w.kafka.commits == [{0: 1}]
    assert w.kafka.closed


def test_stop_asks_for_a_last_commit_though_one_is_under_way(world):
    """Else the group goes on before records that are applied."""
    w = world([message(0)], [message(1)])
    w.kafka.silent = True
    w.kafka.turns += [w.consumer.stop]
    w.consumer.run(until=lambda: False)
    assert w.kafka.commits == [{0: 1}, {0: 2}]
    assert w.kafka.closed


def test_stop_gives_up_uncommitted_what_it_can_not_finish_in_time(world, clock):
    w = world([message(0)])
    w.table.troubles = [throttled()] * 10_000
    w.kafka.turns += [w.consumer.stop]
    started = clock.now
    w.consumer.run(until=lambda: False)
    assert clock.now - started < 10
    assert w.kafka.commits == []
    assert w.kafka.closed


def test_a_dead_letter_is_not_begun_once_its_time_is_over(world, clock):
    def stop():
        w.consumer.stop()
        clock.sleep(waiting.GIVE_UP_S + 1)

    w = world([message(0), FakeMessage(1, b"{")], stop)
    w.letters_refused = 1
    w.table.troubles = [throttled()] * 10_000
    w.consumer.run(until=lambda: False)
    assert w.letters_refused == 0
    assert w.letters == []


def test_partitions_that_come_while_it_leaves_are_asked_nothing_about(world):
    w = world()
    w.kafka.committed = None  # what close() has begun, it would answer never
    w.kafka.close = lambda: w.kafka.assign(1)
    w.consumer.run(until=lambda: True)
    assert w.consumer.owned == {0}


def test_stop_does_not_wait_for_a_kafka_that_is_silent(world, monkeypatch):
    monkeypatch.setattr(loop, "LEAVE_S", 0.01)
    w = world()
    w.kafka.close = Event().wait
    w.kafka.turns += [w.consumer.stop]
    w.consumer.run(until=lambda: False)


def test_stop_is_heard_while_kafka_is_absent_at_assignment(world):
    w = world()
    w.topics = [KafkaUnavailable("away")] * 200

    def assign():
        w.consumer.stop()
        w.kafka.assign(4)

    w.kafka.turns += [assign]
    w.consumer.run(until=lambda: False)
    assert w.kafka.closed


def test_a_long_absence_of_kafka_leaves_the_group(world):
    w: World = world()
    w.kafka.turns = [lambda: w.kafka.assign(4)]
    w.topics = [KafkaUnavailable("away")] * 200
    with pytest.raises(KafkaUnavailable):
        w.consumer.run(until=lambda: False)
    assert w.kafka.closed


def test_a_failure_leaves_the_group(world):
    w = world([message(0)])
    w.table.troubles = [refusal("AccessDeniedException")]
    with pytest.raises(StoreRefused):
        w.consumer.run(until=lambda: False)
    assert w.kafka.closed


# Where to begin


def test_without_a_committed_offset_a_partition_is_read_from_its_beginning(world):
    w = world()
    assert w.kafka.starts == {0: 0}


@pytest.mark.parametrize("metadata", [MARK, ""], ids=repr)
def test_a_committed_offset_is_gone_on_from(world, metadata):
    w = world()
    w.kafka.stored[4] = TopicPartition(TOPIC.name, 4, 17, metadata=metadata)
    w.kafka.assign(4)
    assert w.kafka.starts[4] == 17


def gone_on(world: Any, *turns: Any) -> Any:
    """A world that comes back to a partition whose record 49 it has settled."""
    w = world([message(49, FirstName="John")])
    w.turn()
    w.kafka.revoke(0)
    w.kafka.turns += turns
    w.kafka.assign(0)
    return w


def test_it_goes_on_where_the_record_before_is_the_one_that_was_settled(world):
    w = gone_on(world, [message(49, FirstName="John"), message(50, LastName="Doe")])
    assert w.kafka.stored[0].leader_epoch == 7
    assert w.kafka.starts[0] == 49
    w.turn()
    assert w.shown() == {"FirstName": "John", "LastName": "Doe"}
    assert w.kafka.commits == [{0: 50}, {0: 51}]


def test_a_log_that_was_cut_and_grew_again_has_another_record_there(world):
    """Its later records would be refused, or leave a gap: their offsets are not new."""
    other = FakeMessage(49, b'{"PatientId": "1"}', leader_epoch=8)
    w = gone_on(world, [other, message(50, LastName="Doe")])
    with pytest.raises(RecordsMissing, match="was cut and grew again"):
        w.turn()
    assert w.shown() == {"FirstName": "John"}


def test_a_log_that_was_cut_is_told_with_where_the_group_is_to_go_on(world):
    w = gone_on(world, [FakeMessage(49, error=KafkaError._AUTO_OFFSET_RESET)])
    w.kafka.ends = {0: 45}
    with pytest.raises(
        RecordsMissing, match="40 to 45, and the group is to go on at 50"
    ):
        w.turn()


def test_a_log_that_ends_before_the_record_that_was_settled_was_cut(world):
    """Where it begins there is no error: that is the log's end, and no more."""
    w = gone_on(world, [end(at=49)])
    w.kafka.ends = {0: 49}
    with pytest.raises(
        RecordsMissing, match="40 to 49, and the group is to go on at 50"
    ):
        w.turn()
    assert not w.consumer.caught_up


def test_a_leader_that_does_not_show_the_last_record_yet_is_waited_for(world):
    """It took over a moment ago, and learns from its followers what it may show."""
    seen = message(49, FirstName="John")
    w = gone_on(world, [end(at=49)], [seen, message(50, LastName="Doe")], [end(at=51)])
    w.turn()
    assert not w.consumer.caught_up
    w.turn()
    w.turn()
    assert w.consumer.caught_up
    assert w.shown() == {"FirstName": "John", "LastName": "Doe"}
    assert w.kafka.commits == [{0: 50}, {0: 51}]


def test_where_a_log_ends_after_a_mark_there_is_nothing_to_prove(world):
    w = gone_on(world, [end(at=50)])
    w.turn()
    assert w.consumer.caught_up


def test_another_record_there_of_a_recreated_topic_is_no_gap(world):
    w = gone_on(world, [FakeMessage(49, b"{}", leader_epoch=8)])
    w.topics = [RECREATED]
    with pytest.raises(StartOver):
        w.turn()


def test_where_the_record_before_is_no_longer_kept_there_is_nothing_to_prove(world):
    w = world([message(39)])
    w.turn()
    w.kafka.revoke(0)
    w.kafka.assign(0)  # the log begins at 40
    assert w.kafka.starts[0] == 40


def test_where_a_later_record_comes_first_there_is_nothing_to_prove(world):
    """The one before may be a mark of a transaction, which is not delivered."""
    w = gone_on(world, [message(50, LastName="Doe")])
    w.turn()
    assert w.kafka.commits == [{0: 50}, {0: 51}]


@pytest.mark.parametrize("metadata", ["topic-0 store", f"{TOPIC.id} restored"])
def test_an_offset_committed_for_another_incarnation_of_topic_or_table_counts_for_nothing(
    world, metadata
):
    w = world()
    w.kafka.stored[4] = TopicPartition(TOPIC.name, 4, 17, metadata=metadata)
    w.kafka.assign(4)
    assert w.kafka.starts[4] == 0


@pytest.mark.parametrize("metadata", [None, "topic-0 store", f"{TOPIC.id} restored"])
def test_a_log_that_was_trimmed_before_anything_counts_is_a_gap(world, metadata):
    w = world()
    if metadata is not None:
        w.kafka.stored[4] = TopicPartition(TOPIC.name, 4, 17, metadata=metadata)
    w.kafka.assign(4)
    at = w.kafka.starts[4]
    w.kafka.turns = [
        [FakeMessage(at, partition=4, error=KafkaError._AUTO_OFFSET_RESET)]
    ]
    with pytest.raises(
        RecordsMissing,
        match=r"partition 4 .* offsets 40 to 90, .* is to begin at 0: the records "
        "before 40 are gone .*--reset-offsets --to-earliest --execute",
    ):
        w.turn()
    assert w.kafka.commits == []


def test_a_trimmed_log_is_begun_where_an_operator_says(world):
    w = world()
    w.kafka.revoke(0)
    w.kafka.stored[0] = TopicPartition(TOPIC.name, 0, 40)
    w.kafka.assign(0)
    w.kafka.turns = [[message(40, FirstName="John")]]
    w.turn()
    assert w.kafka.starts[0] == 40
    assert w.shown() == {"FirstName": "John"}


def test_an_operators_offset_counts_for_the_topic_and_the_table_that_he_saw(world):
    """Where nothing comes there, a table made anew later is still to be filled."""
    w = world()
    w.kafka.stored[4] = TopicPartition(TOPIC.name, 4, 40)
    w.kafka.assign(4)
    w.turn()
    assert w.kafka.commits == [{4: 40}]
    assert w.kafka.stored[4].metadata == MARK


# The end


def test_a_partition_is_caught_up_at_its_end(world):
    w = world([message(8)], [end()], [message(9)])
    w.turn()
    assert not w.consumer.caught_up
    w.turn()
    assert w.consumer.caught_up
    w.turn()
    assert not w.consumer.caught_up


def test_all_owned_partitions_have_to_be_at_their_end(world):
    w = world([end(0)], [end(5)])
    w.kafka.assign(5)
    w.turn()
    assert not w.consumer.caught_up
    w.turn()
    assert w.consumer.caught_up
    assert w.consumer.owned == {0, 5}


def test_a_revoked_partition_is_no_longer_waited_for(world):
    w = world([end(0)])
    w.kafka.assign(5)
    w.turn()
    w.kafka.revoke(5)
    assert w.consumer.caught_up


# What Kafka tells


LOST = [KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE]


@pytest.mark.parametrize("code", LOST)
def test_records_that_are_gone_stop_the_consumer_with_the_gap(world, code):
    w = world([FakeMessage(17, error=code)])
    with pytest.raises(RecordsMissing, match=r"offsets 40 to 90, .* go on at 17"):
        w.turn()
    assert w.kafka.commits == []


@pytest.mark.parametrize("offset", [-1001, 60])
def test_a_log_that_is_cut_while_it_is_read_stops_the_consumer(world, offset):
    cut = FakeMessage(offset, error=KafkaError._AUTO_OFFSET_RESET)
    with pytest.raises(RecordsMissing, match="was cut and grew again"):
        world([cut]).turn()


@pytest.mark.parametrize("code", LOST)
def test_a_lost_position_on_a_recreated_topic_is_no_gap(world, code):
    w = world([FakeMessage(17, error=code)])
    w.topics = [RECREATED]
    with pytest.raises(StartOver):
        w.turn()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "Topic authorization failed"),
        (KafkaError._FATAL, "Fatal error"),
    ],
)
def test_being_forbidden_stops_the_consumer(world, code, said):
    w = world([FakeMessage(0, error=code)])
    with pytest.raises(MemberRefused, match=said):
        w.turn()


def test_a_passing_error_is_logged_and_lived_with(world, caplog):
    w = world([FakeMessage(0, error=KafkaError._TRANSPORT), message(0)])
    w.turn()
    assert w.kafka.commits == [{0: 1}]
    assert "_TRANSPORT" in caplog.text


# The topic's identity


def test_refusals_count_as_applied_only_while_the_topic_is_the_same(world):
    w = world([message(0)])
    w.table.update_item(**items.upsert("t", update_at(5), OURS))
    w.turn()
    assert w.kafka.commits == [{0: 1}]


def test_a_refusal_on_a_recreated_topic_starts_over_with_nothing_committed(world):
    w = world([message(0, FirstName="new")])
    w.table.update_item(**items.upsert("t", update_at(5), OURS))
    w.topics = [RECREATED]
    with pytest.raises(StartOver):
        w.turn()
    assert w.kafka.commits == []


def test_a_refusal_waits_for_kafka_to_tell_the_topic(world):
    w = world([message(0)])
    w.table.update_item(**items.upsert("t", update_at(5), OURS))
    w.topics = [KafkaUnavailable("away"), KafkaUnavailable("away")]
    w.turn()
    assert w.topics == []
    assert w.kafka.commits == [{0: 1}]


def test_a_recreated_topic_is_noticed_before_the_next_batch(world, clock):
    w = world([message(0)])
    w.topics = [RECREATED]
    clock.now += changes.WATCH_S + 0.1
    with pytest.raises(StartOver):
        w.turn()
    assert w.table.items == {}


def test_a_record_of_a_partition_that_is_not_ours_is_left_to_its_owner(world):
    w = world([message(0), message(7, "5", partition=3)])
    w.turn()
    assert {*w.table.items} == {"1"}
    assert w.kafka.commits == [{0: 1}]


def test_nothing_is_written_before_the_topic_is_known_to_be_the_same(world):
    written_meanwhile: list[Any] = []
    w = world([message(0)])
    w.kafka.turns += [lambda: written_meanwhile.append([*w.table.items])]
    w.topics = [KafkaUnavailable("away")]
    w.turn()
    assert written_meanwhile == [[]]
    assert {*w.table.items} == {"1"}


def test_a_batch_read_from_a_recreated_topic_is_not_written(world):
    w = world([message(0, FirstName="new")])
    w.topics = [RECREATED]
    with pytest.raises(StartOver):
        w.turn()
    assert w.table.items == {}
    assert w.kafka.commits == []


def test_a_recreated_topic_is_noticed_at_assignment(world):
    w = world()
    w.topics = [RECREATED]
    with pytest.raises(StartOver):
        w.kafka.assign(4)
    assert 4 not in w.kafka.starts


def test_kafkas_short_absence_at_assignment_is_sat_out(world):
    w = world()
    w.topics = [KafkaUnavailable("away")] * 3
    w.kafka.assign(4)
    assert w.kafka.starts[4] == 0


def test_kafkas_long_absence_at_assignment_stops_the_consumer(world):
    w = world()
    w.topics = [KafkaUnavailable("away")] * 200
    with pytest.raises(KafkaUnavailable):
        w.kafka.assign(4)


# The group's members


EMPTY = Group("EMPTY", {})
OTHERS = Group("STABLE", {}, frozenset({"another"}))
STANDBY = Group("STABLE", {0: "another"}, frozenset({"another", "member"}))
UNTOLD = Group("STABLE", None)
JOINING = Group("PREPARING_REBALANCING", {}, frozenset({"another", "member"}))


def watched(w: World, seconds: float) -> None:
    """Take turns in which nothing comes, for so long."""
    until = w.kafka.clock.now + seconds
    while w.kafka.clock.now < until:
        w.turn()


@pytest.mark.parametrize("group", [EMPTY, OTHERS], ids=["empty", "of others"])
@pytest.mark.parametrize("member_id", ["member", "", None])
def test_a_consumer_that_its_group_has_lost_begins_anew(world, group, member_id):
    w = world()
    w.kafka.revoke(0)
    w.group, w.kafka.member_id = group, member_id
    watched(w, changes.LOST_S - 1)
    with pytest.raises(StartOver, match="not in its group"):
        watched(w, 10)


def test_the_client_of_a_consumer_that_its_group_has_lost_is_dropped(world):
    """Its close() may wait for ever for the answer to a commit."""
    w = world()
    w.group = EMPTY
    client, w.kafka.close = weakref.ref(w.kafka), Event().wait
    del w.kafka
    with pytest.raises(StartOver, match="not in its group") as lost:
        w.consumer.run(until=lambda: False)
    assert client() is None
    assert lost.traceback  # whose frames must not hold the client either


def test_a_consumer_that_never_got_an_assignment_begins_anew(clock):
    w = World(clock, [])
    w.group, w.kafka.member_id = EMPTY, None
    with pytest.raises(StartOver, match="not in its group"):
        watched(w, changes.LOST_S + 10)


def test_a_consumer_that_takes_what_it_lost_for_its_own_begins_anew(world):
    """Of KIP-848's members librdkafka revokes nothing while it reaches no broker."""
    w = world()
    w.group = EMPTY
    with pytest.raises(StartOver, match="not in its group"):
        watched(w, changes.LOST_S + 10)


def test_one_that_waits_for_the_table_notices_too_that_its_group_has_lost_it(world):
    w = world([message(0)])
    w.table.troubles = [throttled()] * 1000
    w.group = EMPTY
    with pytest.raises(StartOver, match="not in its group"):
        w.turn()
    assert w.kafka.commits == []


@pytest.mark.parametrize(
    "group",
    [STANDBY, UNTOLD, JOINING, KafkaUnavailable("away")],
    ids=["with nothing to own", "untold", "joining", "silent"],
)
def test_a_member_without_partitions_waits_for_its_turn(world, group):
    w = world()
    w.kafka.revoke(0)
    w.group = group
    watched(w, 10 * changes.LOST_S)


def test_one_that_joins_in_time_is_kept(world):
    w = world()
    for _ in range(5):
        w.group = EMPTY
        watched(w, changes.LOST_S - 5)
        w.group = GROUP
        watched(w, 5)


def test_one_that_was_suspended_has_its_time_to_join_again(world, clock):
    w = world()
    watched(w, 5)
    clock.sleep(3600)
    w.group = EMPTY
    watched(w, changes.LOST_S - 5)


# All of it


NAMES = st.dictionaries(
    st.sampled_from(["FirstName", "LastName"]), st.none() | st.sampled_from("xyz")
)
MAYBE_THROTTLED = st.lists(st.none() | st.just(throttled()), max_size=3)
MAYBE_LOST = st.lists(st.none() | st.just(refusal("InternalError", 500)), max_size=3)
MAYBE_REFUSED = st.lists(st.just(refusal("AccessDeniedException")), max_size=1)


def fold(posted):
    profiles: dict[str, dict[str, str]] = {}
    for who, fields in posted:
        profile = {**profiles.get(who, {}), **fields}
        profiles[who] = {name: profile[name] for name in profile if profile[name]}
    return profiles


@given(st.lists(st.tuples(st.sampled_from("1f"), NAMES), max_size=10), st.data())
def test_whatever_fails_every_update_takes_effect_once_and_in_order(posted, data):
    """Each turn is a consumer of its own, that begins where the last one committed."""
    log = [message(i, who, **fields) for i, (who, fields) in enumerate(posted)]
    table, done = FakeDynamoDB(), 0
    while done < len(log):
        with pytest.MonkeyPatch.context() as patch, suppress(StoreRefused):
            clock = Clock()
            fake_time(clock, patch)
            table.troubles = data.draw(MAYBE_THROTTLED) + data.draw(MAYBE_REFUSED)
            table.lost_answers = data.draw(MAYBE_LOST)
            batch = log[done : done + data.draw(st.integers(1, 4))]
            w = World(clock, [batch], table)
            if data.draw(st.booleans()):
                w.kafka.commit_errors = [not_committed()]
            w.kafka.assign(0)
            w.turn()
        done = max([done, *(offsets[0] for offsets in w.kafka.commits)])
    assert {who: names(table, who) for who in table.items} == fold(posted)


def test_no_log_line_shows_a_value(world, caplog):
    caplog.set_level(logging.DEBUG)
    w = world(
        [
            message(0, FirstName="Secret"),
            message(1, "f", FirstName="Secret", Shoe="Secret"),
            FakeMessage(2, b'{"Secret"'),
        ]
    )
    w.table.troubles = [throttled()]
    w.turn()
    assert "batch: applied=1" in caplog.text
    assert "Secret" not in caplog.text


def test_the_source_of_a_record_is_the_topic_as_it_was_at_the_start(world):
    w = world([message(3)])
    w.turn()
    assert w.table.items["1"][items.fence_name(SOURCE)] == {"N": "3"}


def test_nobody_has_caught_up_who_was_given_nothing_yet(world, clock):
    w = world([])
    w.kafka.revoke(0)
    assert not w.consumer.caught_up
    clock.sleep(loop.JOIN_S + 1)
    assert w.consumer.caught_up


def test_a_table_that_was_replaced_is_begun_anew_with_nothing_written(world, clock):
    w = world([message(0, FirstName="John")])
    w.stores = ["another"]
    clock.sleep(changes.TABLE_S)
    with pytest.raises(StartOver, match="table was replaced"):
        w.turn()
    assert (w.table.items, w.kafka.commits) == ({}, [])


def test_a_table_that_is_replaced_while_it_is_waited_for_is_begun_anew(world):
    w = world([message(0)])
    w.table.troubles = [throttled()] * 100
    w.kafka.turns += [lambda: w.stores.append("another")]
    with pytest.raises(StartOver):
        w.turn()
    assert (w.table.items, w.kafka.commits) == ({}, [])


FORMER = [Incarnation("topic-0", "store"), Incarnation(TOPIC.id, "former")]


def held_by(incarnation):
    table: Any = FakeDynamoDB()
    source = Source(incarnation.topic_id, 0)
    update = MergedUpdate("1", {"FirstName": "old"}, source, 9, NOW_MS)
    TableWriter(table, "t").apply([update], incarnation)
    return table


@pytest.fixture
def found(clock):
    """Makes a world that owns partition 0 and finds patient 1 as another left it."""

    def make(incarnation: Incarnation) -> World:
        world = World(clock, [[message(0, FirstName="new")]], held_by(incarnation))
        world.kafka.assign(0)
        return world

    return make


@pytest.mark.parametrize("incarnation", FORMER)
def test_an_item_is_taken_over_once_topic_and_table_were_read_anew(found, incarnation):
    w = found(incarnation)
    seen: list[str] = []
    w.topics = [TOPIC, KafkaUnavailable("away")]  # before the write, and after it
    w.kafka.turns += [lambda: seen.append(w.shown()["FirstName"])]
    w.turn()
    assert (w.topics, seen) == ([], ["old"])
    assert w.shown() == {"FirstName": "new"}
    assert w.table.items["1"][items.MARK] == {"S": MARK}
    assert w.kafka.commits == [{0: 1}]


@pytest.mark.parametrize("incarnation", FORMER)
@pytest.mark.parametrize("asked", ["topic", "table"])
def test_an_item_of_a_newer_incarnation_is_left_to_it(found, incarnation, asked):
    w = found(incarnation)
    if asked == "topic":
        w.topics = [TOPIC, RECREATED]
    else:
        w.stores = ["newer"]  # though it was read within STORE_S
    with pytest.raises(StartOver):
        w.turn()
    assert w.shown() == {"FirstName": "old"}
    assert w.kafka.commits == []


def test_a_table_that_does_not_tell_its_id_is_taken_over_once_it_does(found):
    w = found(FORMER[1])
    w.stores = [None, None]
    w.turn()
    assert w.stores == []
    assert w.shown() == {"FirstName": "new"}


def test_a_table_that_does_not_tell_which_it_is_is_waited_for(world, clock):
    w = world([message(0)])
    w.stores = [None, None]
    clock.sleep(changes.TABLE_S)
    w.turn()
    assert {*w.table.items} == {"1"}
    assert w.kafka.commits == [{0: 1}]
