"""Reading topics from outside any group. Never writes.

Out: what a topic is (its id and partition count), checked against what is configured.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from functools import cache, partial
from threading import Condition, Thread
from typing import TypeVar

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    Uuid,
)
from confluent_kafka.admin import AdminClient
from django.conf import settings

from profiles.kafka import clients
from profiles.runtime.gates import Full, Gate

log = logging.getLogger(__name__)

T = TypeVar("T")

DESCRIBE_TIMEOUT_S = 2.0
WATCH_S = 2.0
LOOK_S = 0.5
"""With the time that an acknowledgement may take, below the 5 s of an answer."""
SILENCE_S = 6.0
READ_TIMEOUT_S = 5.0
SPARE = 4
"""In a silence each of the first looks ends a client, and then one in so many."""
PATIENCE_S = 60.0
"""How long a broker's restart or a coordinator's move is sat out."""

GROWN = "read a topic that was grown; KAFKA_PARTITIONS stays the count that it had"
"""What the commands say of their option `--grown`."""


class KafkaUnavailable(Exception):
    """Kafka does not answer: try again later."""


class TopicMissing(KafkaUnavailable):
    """The topic does not exist (yet): provision it."""


class WrongTopic(Exception):
    """The topic is not as configured: an operator has to act."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One incarnation of a topic: recreating it gives another id."""

    name: str
    id: str
    partitions: int


def describe(admin: AdminClient, name: str) -> Topic:
    """What Kafka knows of the topic; raises KafkaUnavailable or WrongTopic."""
    future = admin.describe_topics(
        TopicCollection([name]), request_timeout=DESCRIBE_TIMEOUT_S
    )[name]
    try:
        found = future.result(timeout=DESCRIBE_TIMEOUT_S + 1)
    except KafkaException as error:
        raise _unavailable(name, error.args[0]) from None
    except TimeoutError:
        raise KafkaUnavailable("Kafka did not answer in time") from None
    return Topic(name, _id(name, found.topic_id), len(found.partitions))


def _id(name: str, told: Uuid | None) -> str:
    """The topic's id as Kafka writes it (22 characters, URL-safe), or the epoch.

    librdkafka writes `+` and `/`; a receipt is part of an address.
    """
    if told is not None and str(told).strip("A="):  # all zero: there is none
        return str(told).translate(str.maketrans("+/", "-_"))
    if settings.KAFKA_TOPIC_EPOCH:
        return settings.KAFKA_TOPIC_EPOCH
    raise WrongTopic(
        f"the broker tells no id of topic {name}: set KAFKA_TOPIC_EPOCH to a word, and "
        "to another one whenever the topic is made anew"
    )


def expect(topic: Topic, partitions: int, grown: bool = False) -> Topic:
    """The topic itself if it has this many partitions, else WrongTopic.

    The patient's partition is the key's hash modulo the count: another count breaks
    the order of updates that are on the topic already. One that was `grown` may have
    more, to be read to its end; its keys are placed by the count that it had.
    """
    if topic.partitions != partitions and not (grown and topic.partitions > partitions):
        raise WrongTopic(
            f"topic {topic.name} has {topic.partitions} partitions and "
            f"KAFKA_PARTITIONS is {partitions}: correct the setting, or, if the topic "
            "was grown, move to a new topic as docs/operations.md describes"
        )
    return topic


def configured(admin: AdminClient, grown: bool = False) -> Topic:
    """The configured topic, as it is now and as it should be, or `grown`."""
    topic = describe(admin, settings.KAFKA_TOPIC)
    return expect(topic, settings.KAFKA_PARTITIONS, grown)


@cache
def watch() -> Watch:
    """This process's view of the configured topic."""
    ask = partial(AdminConnection(clients.admin).ask, configured)
    return Watch(ask, capacity=max(1, settings.WEB_THREADS // 4))


class AdminConnection:
    """Asks one admin client, which is replaced when it hears nothing.

    librdkafka asks the broker that it takes for the controller, and goes on asking it
    while that one is down and the others would answer.
    """

    def __init__(self, make: Callable[[], AdminClient]) -> None:
        self._make = make
        self._admin: AdminClient | None = None
        self._unheard = 0

    def ask(self, question: Callable[[AdminClient], T]) -> T:
        """The answer; raises what the question raises."""
        if self._admin is None:  # compared: a client with nothing in flight is false
            self._admin = self._make()
        try:
            answer = question(self._admin)
        except TopicMissing:  # Kafka's own word
            raise
        except KafkaUnavailable:
            self._unheard += 1
            if self._unheard < SPARE or self._unheard % SPARE == 0:
                self.close()
            raise
        self._unheard = 0
        return answer

    def close(self) -> None:
        """Give the client up, with its threads and sockets; asking makes another.

        Not left to the collector: a failed answer is in a cycle, with its traceback,
        which holds the client.
        """
        admin, self._admin = self._admin, None
        if admin is not None:
            with admin:
                pass  # there is no other way to close it


def configured_group(admin: AdminClient) -> Group:
    """The configured group, as it is now; raises KafkaUnavailable."""
    return describe_group(admin, settings.KAFKA_GROUP_ID, settings.KAFKA_TOPIC)


def _unavailable(name: str, error: KafkaError) -> Exception:
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID):
        return TopicMissing(
            f"topic {name} does not exist: create it with `python manage.py provision`"
        )
    return KafkaUnavailable(f"Kafka does not answer ({error.name()})")


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group; `owners` by partition, or None where the broker won't tell.

    `members` are the ids that the coordinator gave, or took: empty where it won't tell.
    """

    state: str
    owners: Mapping[int, str] | None
    members: Set[str] = frozenset()

    def may_have(self, member_id: str | None) -> bool:
        """Whether this member is in the group; true where the broker won't tell.

        One that asked to join is in it, however long the rebalance takes.
        """
        if self.members or self.state in _WITHOUT_MEMBERS:
            return member_id in self.members
        return True


def describe_group(admin: AdminClient, group_id: str, topic: str) -> Group:
    """Who of the group owns which partition of the topic; raises KafkaUnavailable.

    Tansu describes a stable group without its members.
    """
    future = admin.describe_consumer_groups(
        [group_id], request_timeout=DESCRIBE_TIMEOUT_S
    )[group_id]
    try:
        found = future.result(timeout=DESCRIBE_TIMEOUT_S + 1)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return Group("EMPTY", {})
        raise _unavailable(topic, error.args[0]) from None
    except TimeoutError:
        raise KafkaUnavailable("Kafka did not answer in time") from None
    owners = {
        place.partition: f"{member.client_id} at {member.host.removeprefix('/')}"
        for member in found.members
        for place in member.assignment.topic_partitions
        if place.topic == topic
    }
    told = found.members or found.state != ConsumerGroupState.STABLE
    members = frozenset(member.member_id for member in found.members)
    return Group(found.state.name, owners if told else None, members)


_WITHOUT_MEMBERS = {ConsumerGroupState.EMPTY.name, ConsumerGroupState.DEAD.name}


def committed(
    group: Consumer, places: list[TopicPartition], patience_s: float = PATIENCE_S
) -> list[TopicPartition]:
    """What the group committed there; sits out a coordinator that moves.

    Raises KafkaUnavailable when that takes too long.
    """
    patient_until = time.monotonic() + patience_s
    while True:
        try:
            return committed_now(group, places, min(READ_TIMEOUT_S, patience_s))
        except KafkaUnavailable:
            if time.monotonic() > patient_until:
                raise
        time.sleep(0.5)


def committed_now(
    group: Consumer, places: list[TopicPartition], timeout_s: float = READ_TIMEOUT_S
) -> list[TopicPartition]:
    """As `committed`, but asked once."""
    try:
        found = group.committed(places, timeout=timeout_s)
    except KafkaException as error:
        name = error.args[0].name()
        if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise WrongTopic(
                f"Kafka refuses to tell what the group committed ({name}): check the "
                "rights of this process"
            ) from None
        raise KafkaUnavailable(f"Kafka does not answer ({name})") from None
    for place in found:
        if place.error is not None:
            raise KafkaUnavailable(f"Kafka does not answer ({place.error.name()})")
    return found


def watermarks(
    reader: Consumer,
    place: TopicPartition,
    timeout_s: float = READ_TIMEOUT_S,
    cached: bool = False,
) -> tuple[int, int]:
    """The first offset that a partition has, and the one after its last.

    Where `cached`, as the last fetch told them. Raises KafkaUnavailable.
    """
    try:
        return reader.get_watermark_offsets(place, timeout=timeout_s, cached=cached)
    except KafkaException as error:
        name = error.args[0].name()
        raise KafkaUnavailable(f"Kafka does not answer ({name})") from None


def all_read(group: Consumer, topic: str, partitions: Collection[int]) -> bool:
    """Whether the group has committed these partitions to their end.

    `group` has the group's id but joins nothing. The end is where a fetch meets it:
    ListOffsets misleads on some brokers, and after control records.
    """
    places = [TopicPartition(topic, partition) for partition in partitions]
    for place in committed(group, places):
        start = max(place.offset, 0)
        group.incremental_assign([TopicPartition(topic, place.partition, start)])
    try:
        return _only_ends(group, set(partitions))
    finally:
        group.unassign()


def _only_ends(reader: Consumer, partitions: set[int]) -> bool:
    """Whether the first thing that each assigned partition gives is its end."""
    deadline = time.monotonic() + READ_TIMEOUT_S
    while partitions and time.monotonic() < deadline:
        for message in reader.consume(100, 0.2):
            error = message.error()
            if error is None or error.code() != KafkaError._PARTITION_EOF:
                return False
            partitions.discard(message.partition() or 0)
    return not partitions


class Watch:
    """The topic as it was a moment ago, read again and again in the background.

    The thread starts with the first question, so in the process that asks it: after
    any fork. Answers survive a short silence of Kafka. `capacity` bounds the threads
    that wait for a look: in a silence of Kafka the others have to stay free.
    """

    def __init__(self, read: Callable[[], Topic], capacity: int) -> None:
        self._read = read
        self._gate = Gate(capacity)
        self._changed = Condition()
        self._thread: Thread | None = None
        self._topic: Topic | None = None
        self._problem: Exception = KafkaUnavailable("Kafka has not answered yet")
        self._asked_for = self._looked_at = self._read_at = -math.inf

    def current(self) -> Topic:
        """The topic; raises KafkaUnavailable or WrongTopic where there is none."""
        if self._topic is None:
            self._await_look(-math.inf, DESCRIBE_TIMEOUT_S + 1)
        topic = self._topic
        if topic is None:
            raise type(self._problem)(str(self._problem))
        return topic

    def since(self, moment: float) -> Topic:
        """The topic as it was read after this moment (monotonic): one look serves all.

        An id never comes back: what was put on the topic between two looks that found
        the same id is on that incarnation. Blocks for at most LOOK_S. Raises
        KafkaUnavailable or WrongTopic.
        """
        by = time.monotonic() + LOOK_S
        try:
            with self._gate.passage(LOOK_S) as moved:
                topic = self._look_since(moment, by - time.monotonic())
                moved()
                return topic
        except Full:
            raise KafkaUnavailable("too many requests wait for Kafka") from None

    def _look_since(self, moment: float, most_s: float) -> Topic:
        if not self._await_look(moment, most_s):
            raise KafkaUnavailable("Kafka did not answer in time")
        topic = self._topic
        if topic is None or self._read_at <= moment:
            raise type(self._problem)(str(self._problem))
        return topic

    def is_still(self, topic_id: str, most_s: float) -> bool:
        """Whether a look that begins now finds this id; False where it finds nothing.

        Whoever calls bounds the threads that wait, and for how long.
        """
        try:
            return self._look_since(time.monotonic(), most_s).id == topic_id
        except (KafkaUnavailable, WrongTopic):
            return False

    def _await_look(self, moment: float, most_s: float) -> bool:
        """Whether a look that began after this moment has ended in this time."""
        self._start()
        with self._changed:
            self._asked_for = max(self._asked_for, moment)
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._looked_at > moment, most_s)

    def _start(self) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = Thread(target=self._run, name="topic-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._look()
            with self._changed:
                self._changed.wait_for(
                    lambda: self._asked_for >= self._looked_at,
                    WATCH_S if self._topic else WATCH_S / 4,
                )

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self._topic, self._read_at = self._read(), began
        except KafkaUnavailable as error:
            self._problem = error
            if time.monotonic() - self._read_at > SILENCE_S:
                self._topic = None
        except WrongTopic as error:
            self._problem, self._topic = error, None
        except Exception as error:  # whatever it is, the thread has to live on
            name = type(error).__name__
            log.error("the topic can't be described: %s", name)
            self._problem = KafkaUnavailable(f"The topic can't be described ({name})")
            self._topic = None
        with self._changed:
            self._looked_at = began
            self._changed.notify_all()
