"""The consumer under trouble: whatever happens, every item is the fold of its log."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from confluent_kafka import TopicPartition

from tests.chaos import proxy
from tests.chaos.proxy import Answer, Forward, one_in
from tests.engines.kafka import unregister
from tests.engines.process import Engine, wait_until
from tests.real.scene import PARTITIONS, Consuming, Engines, Scene, engines

pytestmark = pytest.mark.real

AWAY_S = 120
"""How long the table is away: far longer than a silent member is waited for."""

ASTRAY_S = 30
"""How long a consumer that its group does not have stays as it is."""

SESSION = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 500}

POISON = b'{"PatientId":'


def static(name: str) -> dict[str, str]:
    """The environment of a replica that keeps its place over a restart."""
    config = {
        "session.timeout.ms": 20_000,
        "heartbeat.interval.ms": 500,
        "group.instance.id": name,
    }
    return {"KAFKA_CONFIG": json.dumps(config)}


def rebalances(member: Consuming) -> int:
    """It grows with each rebalance that reaches the member."""
    return member.times(b"assigned") + member.times(b"revoked")


def wait_balanced(first: Consuming) -> None:
    """Until this member has given up what a second one is to own."""
    first.wait_said(b"revoked partition")
    first.wait_said(b"assigned no more partitions")


# The group


def test_members_join_leave_and_die(scene):
    first = scene.joined("first")
    scene.load(200)
    second = scene.joined("second")
    scene.load(200)
    second.kill()
    scene.load(200)
    scene.settle()
    scene.joined("third")
    scene.load(200)
    first.sigterm()
    scene.load(200)
    scene.settle()
    scene.assert_sound()


def test_the_late_write_of_a_suspended_member_changes_nothing(scene):
    zombie = scene.joined("zombie")
    scene.update("1")
    scene.settle()
    zombie.proxy.hold()
    scene.update("1")
    wait_until(lambda: zombie.proxy.held > 0, 10, "no write was held")
    zombie.suspend()
    scene.joined("heir")
    scene.update("1")
    scene.settle()
    at_rest = scene.item("1")
    zombie.proxy.release()
    wait_until(lambda: zombie.proxy.busy == 0, 10, "the write was not let go")
    assert scene.item("1") == at_rest
    zombie.resume()
    scene.load(50)
    scene.settle()
    scene.assert_sound()


@pytest.mark.parametrize("restarted", [0, 1])
def test_a_static_member_restarts_without_a_rebalance(scene, restarted):
    members = [scene.joined(name, **static(name)) for name in ("one", "two")]
    wait_balanced(members[0])
    scene.load(50)
    scene.settle()
    other = members[1 - restarted]
    seen = rebalances(other)
    members[restarted].sigterm()
    members[restarted].start()
    members[restarted].wait_ready()
    scene.load(50)
    scene.settle()
    assert rebalances(other) == seen
    scene.assert_sound()


def test_a_member_whose_name_is_taken_stops_with_a_message(scene):
    first = scene.joined("first", **static("replica"))
    scene.joined("second", **static("replica"))
    scene.load(10)
    assert first.exit_code(30) == 1
    assert "Static consumer fenced" in first.last_line()
    assert "that no other member has its group.instance.id" in first.last_line()
    scene.settle()
    scene.assert_sound()


def test_the_new_group_protocol_consumes_and_takes_over(scene):
    new = {"KAFKA_GROUP_PROTOCOL": "consumer"}
    scene.joined("first", **new)
    second = scene.joined("second", **new)
    scene.load(200)
    scene.settle()
    second.kill()
    scene.load(200)
    scene.settle()
    scene.assert_sound()


def test_a_member_with_nothing_to_own_is_left_alone(scene):
    """There are fewer partitions than members."""
    members = [scene.joined(f"member-{number}") for number in range(PARTITIONS + 1)]
    seen = [member.times(b"assigned") for member in members]
    scene.load(50)
    scene.settle()
    time.sleep(ASTRAY_S + 10)  # nothing is to happen
    assert not any(member.said(b"starting over") for member in members)
    members[0].sigterm()
    scene.load(50)
    scene.settle()
    assert seen != [member.times(b"assigned") for member in members]


# Kafka


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_consumer_that_was_told_of_no_broker_at_all_comes_back(
    scene, shared, protocol
):
    """A broker that has just come back may show a cluster without any. librdkafka drops
    them all then, and but for its luck with a rebootstrap it has nobody left to ask.
    """
    config = {**SESSION, "metadata.recovery.strategy": "none"}
    environ = {"KAFKA_GROUP_PROTOCOL": protocol, "KAFKA_CONFIG": json.dumps(config)}
    member = scene.joined(**environ)
    scene.load(50)
    scene.settle()
    had = member.threads()
    unregister(shared.broker)
    member.wait_said(b"waiting for Kafka")
    shared.broker.kill()
    shared.broker.start()
    shared.broker.wait_ready()
    member.wait_said(b"not in its group for 30 s: starting over", 3 * ASTRAY_S)
    scene.load(50)
    scene.settle()
    wait_until(lambda: member.threads() <= had, 30, "the old client is still there")
    scene.assert_sound()


def test_the_broker_restarts_under_load(scene, shared):
    scene.load(3000, patients=500)
    member = scene.joined()
    member.wait_said(b"batch: ")
    shared.broker.kill()
    shared.broker.start()
    shared.broker.wait_ready()
    scene.load(200)
    scene.settle()
    assert member.running
    scene.assert_sound()


@pytest.fixture(scope="module")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with engines(tmp_path_factory.mktemp("three"), brokers=3) as running:
        yield running


@pytest.fixture
def three(three_brokers: Engines) -> Engines:
    """All of them run before each scene."""
    for broker in three_brokers.kafka.brokers:
        if not broker.running:
            broker.start()
    three_brokers.kafka.wait_ready()
    return three_brokers


def test_the_coordinator_dies(three):
    with ExitStack() as ends:
        scene = Scene(three, ends, "moving")
        scene.provision()
        members = [scene.joined("first"), scene.joined("second")]
        scene.load(200)
        group = f"profiles-{scene.table}"
        described = scene.admin.describe_consumer_groups([group])[group].result(10)
        coordinator = three.kafka.brokers[described.coordinator.id - 1]
        coordinator.kill()
        scene.load(200)
        scene.settle()
        coordinator.start()
        coordinator.wait_ready()
        scene.load(200)
        scene.settle()
        assert all(member.running for member in members)
        scene.assert_sound()


def test_without_enough_replicas_a_dead_letter_is_waited_for(three):
    with ExitStack() as ends:
        scene = Scene(three, ends, "unmet")
        scene.provision()
        member = scene.joined()
        scene.set_config(scene.dead_letter_topic, "min.insync.replicas", "3")
        three.kafka.brokers[2].kill()
        scene.produce([(b"1", POISON)])
        wait_until(lambda: waited_for_letters(member) > 1, 60, "it was not waited for")
        assert scene.committed() == {}
        three.kafka.brokers[2].start()
        three.kafka.brokers[2].wait_ready()
        scene.settle()
        assert member.running
        scene.assert_sound()


# The table


def test_while_the_table_is_away_the_group_stays_as_it_is(scene, shared):
    members = [scene.joined("first"), scene.joined("second")]
    wait_balanced(members[0])
    scene.load(50)
    scene.settle()
    seen = [rebalances(member) for member in members]
    committed = scene.committed()
    shared.dynamodb.suspend()
    scene.load(50)
    time.sleep(AWAY_S)  # nothing is to happen
    assert [rebalances(member) for member in members] == seen
    assert scene.committed() == committed
    shared.dynamodb.resume()
    scene.settle()
    assert [rebalances(member) for member in members] == seen
    scene.assert_sound()


def test_a_member_that_waits_for_the_table_gives_up_what_is_revoked(scene):
    stuck = scene.joined("stuck")
    stuck.proxy.hold()
    scene.load(50)
    wait_until(lambda: stuck.proxy.held > 0, 10, "no write was held")
    other = scene.joined("other")
    wait_until(lambda: other.said(b"batch: "), 30, "the other one got no partition")
    stuck.proxy.release()
    scene.settle()
    assert stuck.running
    scene.assert_sound()


def test_partitions_lost_while_paused_are_read_when_they_come_back(scene):
    first = scene.joined("first")
    first.proxy.fault = proxy.throttled
    scene.load(50)
    first.wait_said(b"waiting for the table")  # and has paused
    had = first.times(b"assigned")
    first.suspend()
    scene.joined("heir")
    scene.settle()
    first.proxy.fault = proxy.unharmed
    first.resume()
    wait_until(lambda: first.times(b"assigned") > had, 30, "it did not join again")
    scene.load(50)
    scene.settle()
    scene.assert_sound()


@pytest.fixture(scope="module")
def ailing(shared: Engines) -> Iterator[tuple[Scene, Consuming]]:
    """A scene with a consumer whose table is to be harmed."""
    with ExitStack() as ends:
        scene = Scene(shared, ends, "ailing")
        scene.provision()
        yield scene, scene.joined()


def slow(forward: Forward) -> Answer | None:
    time.sleep(3)
    return forward()


def in_conflict(forward: Forward) -> Answer | None:
    return Answer(400, b'{"__type": "x#TransactionConflictException"}')


def refused(forward: Forward) -> Answer | None:
    return Answer(400, b'{"__type": "x#AccessDeniedException"}')


@pytest.mark.parametrize(
    "fault",
    [
        one_in(2, proxy.throttled),
        one_in(2, proxy.failing),
        one_in(2, in_conflict),
        one_in(4, proxy.unanswered),
        one_in(4, proxy.swallowed),
        slow,
    ],
    ids=lambda fault: fault.__name__,
)
def test_an_ailing_table_gets_every_update_in_time(ailing, fault):
    scene, member = ailing
    member.proxy.fault = fault
    new = [f"{fault.__name__}-{number}" for number in range(10)]
    scene.updates(new)
    scene.load(20)
    scene.settle(600)  # an attempt is of several calls, and any of them may be hit
    member.proxy.fault = proxy.unharmed
    assert member.running
    scene.assert_sound()


def test_a_table_that_answers_slowly_takes_a_replay(scene):
    """Each update is refused twice before it is known to be there already."""
    scene.updates(["1", "2", "3"])
    member = scene.joined()
    scene.settle()
    member.sigterm()
    scene.forget_commits()
    member = scene.member("again")
    member.proxy.fault = slow
    member.start()
    scene.settle()
    scene.assert_sound()


def test_refused_access_stops_the_consumer_with_a_message(scene):
    member = scene.joined()
    member.proxy.fault = refused
    scene.load(10)
    assert member.exit_code(30) == 1
    assert member.last_line() == (
        f"CommandError: DynamoDB refuses table {scene.table}: AccessDenied."
    )
    assert scene.committed() == {}
    member.proxy.fault = proxy.unharmed
    member.start()
    scene.settle()
    scene.assert_sound()


def test_a_table_that_was_deleted_stops_the_consumer_and_is_filled_anew(scene):
    member = scene.joined()
    scene.load(50)
    scene.settle()
    scene.dynamodb.delete_table(TableName=scene.table)
    scene.load(50)
    assert member.exit_code(30) == 1
    assert "does not exist" in member.last_line()
    assert "manage.py provision" in member.last_line()
    scene.provision()
    member.start()
    scene.wait_sound()


def test_a_table_that_was_restored_to_an_older_state_is_brought_up_to_date(scene):
    member = scene.joined()
    scene.load(50)
    scene.settle()
    older = scene.items()
    scene.load(50)
    scene.settle()
    member.sigterm()
    scene.dynamodb.delete_table(TableName=scene.table)
    scene.provision()
    for item in older.values():
        scene.dynamodb.put_item(TableName=scene.table, Item=item)
    member.start()
    scene.wait_sound()


def test_a_table_that_was_replaced_while_nothing_was_written_is_filled_anew(scene):
    """A first write into it would have fenced out all that it lacks."""
    member = scene.joined()
    scene.load(50)
    scene.update("1", FirstName="John")
    scene.settle()
    scene.dynamodb.delete_table(TableName=scene.table)
    scene.provision()
    scene.update("1", LastName="Doe")
    scene.wait_sound()
    assert scene.item("1")["FirstName"] == {"S": "John"}
    assert member.running
    assert member.said(b"the table was replaced: starting over")


# The log


def test_a_committed_offset_past_the_end_stops_the_consumer_with_the_gap(scene):
    member = scene.joined()
    place = scene.update("1")
    scene.settle()
    member.sigterm()
    beyond = TopicPartition(scene.topic, place.partition(), 1000)
    scene.commit(beyond)
    member.start()
    assert member.exit_code(60) == 1
    assert member.last_line() == gap(scene, place.partition(), 0, 1, 1000)


def test_records_deleted_before_they_were_read_stop_the_consumer_with_the_gap(scene):
    member = scene.joined()
    partition = scene.update("1").partition()
    scene.settle()
    member.sigterm()
    for _ in range(5):
        scene.update("1")
    scene.delete_records(partition, 4)
    member.start()
    assert member.exit_code(60) == 1
    assert member.last_line() == gap(scene, partition, 4, 6, 1)
    assert scene.committed() == {partition: 1}


def test_records_deleted_under_a_running_consumer_stop_it_with_the_gap(scene):
    member = scene.joined()
    member.proxy.fault = proxy.throttled
    partition = scene.update("1").partition()
    member.wait_said(b"waiting for the table")  # and has paused
    for _ in range(5):
        scene.update("1")
    scene.delete_records(partition, 4)
    member.proxy.fault = proxy.unharmed
    assert member.exit_code(60) == 1
    assert member.last_line() == gap(scene, partition, 4, 6, 1)


def test_a_log_that_was_cut_and_grew_again_stops_the_consumer(scene, shared):
    """Its offsets are past the committed one again, but of other records."""
    member = scene.joined()
    partition = scene.update("1").partition()
    log = shared.broker.partition_log(scene.topic, partition)
    size = log.stat().st_size
    for _ in range(3):
        scene.update("1")
    scene.settle()
    assert scene.committed() == {partition: 4}
    member.sigterm()
    shared.broker.kill()
    os.truncate(log, size)
    shared.broker.start()
    shared.broker.wait_ready()
    for _ in range(5):
        scene.update("1")
    member.start()
    assert member.exit_code(60) == 1
    assert member.last_line() == (
        f"CommandError: partition {partition} of topic {scene.topic} holds the offsets "
        "0 to 6, and the group has read records that it does not hold: the log was "
        "cut and grew again; see docs/operations.md."
    )


def gap(scene: Scene, partition: int, low: int, high: int, next_: int) -> str:
    return (
        f"CommandError: partition {partition} of topic {scene.topic} holds the offsets "
        f"{low} to {high}, and the group is to go on at {next_}: the records between "
        "are gone from the log; see docs/operations.md."
    )


# Dead letters


def test_a_poison_record_in_any_place_holds_up_nothing(scene):
    scene.joined()
    for position in range(5):
        scene.updates(["1"] * position)
        scene.produce([(b"1", POISON)])
        scene.updates(["1"] * (4 - position))
    scene.settle()
    assert len(scene.dead_letters()) == 5
    scene.assert_sound()


def test_without_its_topic_a_dead_letter_is_waited_for(scene):
    member = scene.joined()
    scene.delete_topic(scene.dead_letter_topic)
    scene.produce([(b"1", POISON)])
    wait_until(lambda: waited_for_letters(member) > 1, 60, "it was not waited for")
    assert scene.committed() == {}
    scene.provision()
    scene.settle()
    assert member.running
    scene.assert_sound()


def waited_for_letters(member: Consuming) -> int:
    return member.times(b"waiting for the dead-letter topic")


# SIGTERM: exit code 0 within 10 s, whoever is away


@pytest.fixture
def suspended() -> Iterator[list[Engine]]:
    """Engines to resume."""
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.resume()


def test_sigterm_while_the_table_is_away(scene, shared, suspended):
    member = scene.joined()
    suspended.append(shared.dynamodb)
    shared.dynamodb.suspend()
    scene.load(50)
    member.wait_said(b"waiting for the table")
    report("the table away", member.sigterm())
    assert scene.committed() == {}


def test_sigterm_while_kafka_is_silent(scene, shared, suspended):
    member = scene.joined()
    scene.load(50)
    scene.settle()
    suspended.append(shared.broker)
    shared.broker.suspend()
    member.wait_said(b"waiting for Kafka")
    report("Kafka silent", member.sigterm())


def test_sigterm_while_a_commit_waits_for_a_silent_kafka(scene, shared, suspended):
    member = scene.joined()
    scene.update("1")
    scene.settle()
    member.proxy.hold()
    scene.update("1")
    wait_until(lambda: member.proxy.held > 0, 10, "no write was held")
    suspended.append(shared.broker)
    shared.broker.suspend()
    member.proxy.release()
    wait_until(lambda: member.times(b"batch: ") == 2, 30, "no second batch")
    report("a commit under way, Kafka silent", member.sigterm())
    shared.broker.resume()
    scene.joined("heir")
    scene.settle()
    scene.assert_sound()


def test_sigterm_while_kafka_is_silent_and_the_table_away(scene, shared, suspended):
    member = scene.joined()
    member.proxy.hold()
    scene.load(50)
    wait_until(lambda: member.proxy.held > 0, 10, "no write was held")
    suspended.append(shared.broker)
    shared.broker.suspend()
    member.wait_said(b"waiting for Kafka")
    report("both away", member.sigterm())


def test_sigterm_while_a_write_is_held_and_the_next_batch_is_read(scene):
    member = scene.joined()
    member.proxy.hold()
    scene.update("1")
    wait_until(lambda: member.proxy.held > 0, 10, "no write was held")
    scene.load(50)
    report("a write held, the next batch read", member.sigterm())
    assert scene.committed() == {}
    member.proxy.release()
    scene.joined("heir")
    scene.settle()
    scene.assert_sound()


def test_sigterm_while_kafka_is_down(scene, shared):
    member = scene.joined()
    scene.load(50)
    scene.settle()
    shared.broker.kill()
    try:
        member.wait_said(b"waiting for Kafka")
        report("Kafka down", member.sigterm())
    finally:
        shared.broker.start()
        shared.broker.wait_ready()


def test_sigterm_while_dead_letters_are_waited_for(scene):
    member = scene.joined()
    scene.delete_topic(scene.dead_letter_topic)
    scene.produce([(b"1", POISON)])
    member.wait_said(b"waiting for the dead-letter topic")
    report("dead-letter topic away", member.sigterm())
    assert scene.committed() == {}


def report(state: str, seconds: float) -> None:
    sys.stdout.write(f"\nSIGTERM, {state}: {seconds:.1f} s\n")
