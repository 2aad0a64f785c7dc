"""The topic: what it is now, checked against what is configured.

In: an admin client, the settings. Out: a topic's id and partition count, read when
needed or in the background. Reads only, and no records.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient
from django.conf import settings

from profiles.kafka import clients
from profiles.runtime.background import BackgroundReader, Reading
from profiles.runtime.gates import Full, Gate

T = TypeVar("T")

DESCRIBE_TIMEOUT_S = 2.0
FRESH_S = 0.5
"""What a fresh reading may take: with an acknowledgement, below the 5 s of an answer."""
SILENCE_S = 6.0
"""How long the last answer stays valid while Kafka does not answer."""
FIRST_SILENCES = 4
"""Each of the first requests without an answer ends its client, then one in so many."""

GROWN = "read a topic that was grown; KAFKA_PARTITIONS stays the count that it had"
"""The help text of the commands' option `--grown`."""


class KafkaUnavailable(Exception):
    """Kafka does not answer: try again later."""


class TopicMissing(KafkaUnavailable):
    """The topic does not exist (yet): provision it."""


class WrongTopic(Exception):
    """The topic is not as configured: an operator has to act."""


def unavailable(error: KafkaException | TimeoutError) -> KafkaUnavailable:
    """What a failed request to Kafka means to its caller."""
    if isinstance(error, TimeoutError):
        return KafkaUnavailable("Kafka did not answer in time")
    return KafkaUnavailable(f"Kafka does not answer ({error.args[0].name()})")


# What a topic is


@dataclass(frozen=True, slots=True)
class Topic:
    """One incarnation of a topic: recreating it gives another id."""

    name: str
    id: str
    partitions: int


def describe(admin: AdminClient, name: str) -> Topic:
    """The topic as Kafka describes it; raises KafkaUnavailable or WrongTopic."""
    future = admin.describe_topics(
        TopicCollection([name]), request_timeout=DESCRIBE_TIMEOUT_S
    )[name]
    try:
        found = future.result(timeout=DESCRIBE_TIMEOUT_S + 1)
    except KafkaException as error:
        if error.args[0].code() in _MISSING:
            raise TopicMissing(
                f"topic {name} does not exist: create it with "
                "`python manage.py provision`"
            ) from None
        raise unavailable(error) from None
    except TimeoutError as error:
        raise unavailable(error) from None
    return Topic(name, _topic_id(name, found.topic_id), len(found.partitions))


_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID}


def _topic_id(name: str, reported: Uuid | None) -> str:
    """The topic's id as Kafka writes it (22 characters, URL-safe), or the epoch.

    librdkafka writes `+` and `/`; a receipt is part of an address.
    """
    if reported is not None and str(reported).strip("A="):  # all zero: there is none
        return str(reported).translate(str.maketrans("+/", "-_"))
    if settings.KAFKA_TOPIC_EPOCH:
        return settings.KAFKA_TOPIC_EPOCH
    raise WrongTopic(
        f"the broker reports no id of topic {name}: set KAFKA_TOPIC_EPOCH to a name, "
        "and to another one whenever the topic is recreated"
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


# Reading it again and again


class AdminConnection:
    """One admin client, replaced when it gets no answer.

    librdkafka sends to the broker that it takes for the controller, and goes on
    sending there while that broker is down and the others would answer.
    """

    def __init__(self, make: Callable[[], AdminClient]) -> None:
        self._make = make
        self._admin: AdminClient | None = None
        self._silences = 0

    def query(self, request: Callable[[AdminClient], T]) -> T:
        """The answer to a request; raises what the request raises."""
        if self._admin is None:  # compared: a client with nothing in flight is false
            self._admin = self._make()
        try:
            answer = request(self._admin)
        except TopicMissing:  # Kafka has answered
            raise
        except KafkaUnavailable:
            self._silences += 1
            if self._silences < FIRST_SILENCES or self._silences % FIRST_SILENCES == 0:
                self.close()
            raise
        self._silences = 0
        return answer

    def close(self) -> None:
        """Close the client, with its threads and sockets; a query makes another.

        Not left to the collector: a failed answer is in a cycle, with its traceback,
        which holds the client.
        """
        admin, self._admin = self._admin, None
        if admin is not None:
            with admin:
                pass  # there is no other way to close it


@cache
def watch() -> Watch:
    """This process's view of the configured topic."""
    query = partial(AdminConnection(clients.admin).query, configured)
    return Watch(query, capacity=max(1, settings.WEB_THREADS // 4))


class Watch:
    """The topic as it was a moment ago, read in the background.

    `capacity` bounds the threads that wait for a fresh reading: while Kafka does not
    answer, the others have to stay free.
    """

    def __init__(self, read: Callable[[], Topic], capacity: int) -> None:
        self._read = read
        self._gate = Gate(capacity)
        self._background = BackgroundReader(
            "Kafka", lambda: nullcontext(self._answer), (KafkaUnavailable,)
        )

    def current(self) -> Topic:
        """The topic, as Kafka last answered; raises KafkaUnavailable or WrongTopic."""
        now = time.monotonic()
        reading = self._background.latest(now + DESCRIBE_TIMEOUT_S + 1)
        last = self._background.last_success
        if reading.value is None and now - last.began < SILENCE_S:
            reading = last
        return _topic(reading)

    def since(self, moment: float) -> Topic:
        """The topic, in a reading that began after this moment (monotonic time).

        An id never comes back: a record that was written between two readings with
        one id is on that incarnation. Blocks for at most FRESH_S. Raises
        KafkaUnavailable or WrongTopic.
        """
        by = time.monotonic() + FRESH_S
        try:
            with self._gate.passage(FRESH_S) as moved:
                topic = _topic(self._background.newer_than(moment, by))
                moved()
                return topic
        except Full:
            raise KafkaUnavailable("too many requests wait for Kafka") from None

    def is_still(self, topic_id: str, most_s: float) -> bool:
        """Whether a reading that begins now finds this id; False where it fails.

        The caller bounds the threads that wait, and for how long.
        """
        now = time.monotonic()
        topic = self._background.newer_than(now, now + most_s).value
        return isinstance(topic, Topic) and topic.id == topic_id

    def _answer(self) -> Topic | WrongTopic:
        """A wrong topic is an answer of Kafka too: the right one of before is over."""
        try:
            return self._read()
        except WrongTopic as error:
            return WrongTopic(str(error))  # without the frames, which hold a client


def _topic(reading: Reading[Topic | WrongTopic]) -> Topic:
    if isinstance(reading.value, WrongTopic):
        raise WrongTopic(str(reading.value))
    if reading.value is None:
        raise KafkaUnavailable(reading.problem)
    return reading.value
