"""Fakes of the outside systems: small, in memory, remembering what they were told."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import takewhile
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from profiles.consumer import changes, loop, waiting, writing
from profiles.core.records import Record
from profiles.core.updates import Incarnation, MergedUpdate, Source
from profiles.kafka.topics import Topic

TOPIC = Topic("patient-profile", "topic-1", 9)
"""Of nine partitions: these put patient 1 into the first. Others there: f, n, q."""
SOURCE = Source(TOPIC.id, 0)
OURS = Incarnation(TOPIC.id, "table-1")
NOW_MS = 1_700_000_000_000


class Clock:
    """Stands in for the `time` module: it moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeThread:
    """The writer's thread: an attempt is made at once, or where `held`, by `release`.

    It is released, too, once it was waited for `patience` times.
    """

    def __init__(self, workers: int, thread_name_prefix: str) -> None:
        assert workers == 1
        self.held = False
        self.patience = 10_000
        self.submitted = 0
        self.is_shut_down = False
        self._attempts: list[Callable[[], None]] = []

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = FakeFuture(self)
        self.submitted += 1

        def attempt() -> None:
            try:
                future.set_result(call(*arguments))
            except BaseException as error:
                future.set_exception(error)

        assert not self._attempts, "two attempts at a time"
        self._attempts.append(attempt)
        if not self.held:
            self.release()
        return future

    def release(self) -> None:
        """Make the attempt that is held."""
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt()

    def shutdown(self) -> None:
        self.release()
        self.is_shut_down = True


class FakeFuture(Future[Any]):
    """An attempt to wait for."""

    def __init__(self, thread: FakeThread) -> None:
        super().__init__()
        self.thread = thread

    def result(self, timeout: float | None = None) -> Any:
        assert self.done(), "it would block the loop"
        return super().result()


def fake_time(clock: Clock, patch: pytest.MonkeyPatch) -> None:
    """Have the consumer go by this clock, and write in a FakeThread."""

    def wait(futures: list[FakeFuture], seconds: float) -> None:
        (future,) = futures
        if not future.done():
            clock.sleep(seconds)
            future.thread.patience -= 1
            if future.thread.patience <= 0:
                future.thread.release()

    for module in (changes, loop, waiting, writing):
        patch.setattr(module, "time", clock)
    patch.setattr(writing, "ThreadPoolExecutor", FakeThread)
    patch.setattr(writing, "wait", wait)


def update_at(offset: int, patient: str = "1", **fields: str | None) -> MergedUpdate:
    return MergedUpdate(patient, fields, SOURCE, offset, NOW_MS + offset)


def record_of(value: bytes | None, key: bytes | None = b"1", **place: Any) -> Record:
    """A record of partition 0, at offset 0 unless told otherwise."""
    return Record(
        TOPIC.name,
        SOURCE,
        place.pop("offset", 0),
        place.pop("timestamp_ms", NOW_MS),
        key,
        value,
        **place,
    )


class FakeMessage:
    """A Kafka message: a record, or (with `error`) something that is to be told."""

    def __init__(
        self,
        offset: int,
        value: bytes | None = None,
        *,
        key: bytes | None = b"1",
        partition: int = 0,
        error: int | None = None,
        timestamp: tuple[int, int] = (TIMESTAMP_CREATE_TIME, NOW_MS),
        leader_epoch: int | None = 7,
    ) -> None:
        facts = {
            "topic": TOPIC.name,
            "partition": partition,
            "offset": offset,
            "key": key,
            "value": value,
            "timestamp": timestamp,
            "headers": None,
            "leader_epoch": leader_epoch,
            "error": KafkaError(error) if error is not None else None,
        }
        for name, fact in facts.items():
            setattr(self, name, lambda fact=fact: fact)


def message(offset: int, patient: str = "1", partition: int = 0, **fields: Any) -> Any:
    """A message that holds a valid update."""
    value = json.dumps({"PatientId": patient, **fields}).encode()
    return FakeMessage(offset, value, key=patient.encode(), partition=partition)


class FakeKafkaConsumer:
    """Hands out the turns it was given; a turn is messages, or a function for them.

    Turns come while it is waited for messages. `ready` is what is there without waiting,
    message by message, or functions for them.
    """

    def __init__(self, clock: Clock, turns: list[Any]) -> None:
        self.clock = clock
        self.turns = turns
        self.ready: list[Any] = []
        self.owned: set[int] = set()
        self.paused: set[int] = set()
        self.starts: dict[int, int] = {}
        self.epochs: dict[int, int | None] = {}
        self.ends: dict[int, int] = {}
        self.stored: dict[int, TopicPartition] = {}
        self.commits: list[dict[int, int]] = []
        self.commit_errors: list[KafkaError] = []
        self.commit_answers: list[tuple[KafkaError | None, list[TopicPartition]]] = []
        self.member_id: str | None = "member"
        self.silent = False
        self.closed = False

    def made(self, on_commit) -> FakeKafkaConsumer:
        self.on_commit = on_commit
        return self

    def subscribe(self, topics, on_assign, on_revoke, on_lost) -> None:
        self.on_assign, self.on_revoke = on_assign, on_revoke

    def consume(self, number: int, timeout: float) -> list[Any]:
        """Waits, unless one message is enough and there is one."""
        assert number > 0, "librdkafka's client raises ValueError"
        is_there = self.turns and isinstance(self.turns[0], list) and self.turns[0]
        if not (is_there and number == 1):
            self.clock.now += timeout
        self.answer_commits()
        if timeout == 0:
            return self._ready(number)
        turn = self.turns.pop(0) if self.turns else []
        return (turn() or []) if callable(turn) else turn

    def _ready(self, number: int) -> list[Any]:
        if self.ready and callable(self.ready[0]):
            return self.ready.pop(0)() or []
        found = [*takewhile(lambda each: not callable(each), self.ready[:number])]
        del self.ready[: len(found)]
        return found

    def assign(self, *partitions: int) -> None:
        self.on_assign(self, [TopicPartition(TOPIC.name, p) for p in partitions])

    def revoke(self, *partitions: int) -> None:
        self.on_revoke(self, [TopicPartition(TOPIC.name, p) for p in partitions])
        self.owned -= {*partitions}

    def committed(self, partitions, timeout: float) -> list[TopicPartition]:
        return [self.stored.get(p.partition, p) for p in partitions]

    def incremental_assign(self, partitions) -> None:
        self.starts |= {p.partition: p.offset for p in partitions}
        self.epochs |= {p.partition: p.leader_epoch for p in partitions}
        self.owned |= {p.partition for p in partitions}

    def memberid(self) -> str | None:
        return self.member_id

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(TOPIC.name, partition) for partition in self.owned]

    def pause(self, partitions) -> None:
        self.paused |= {p.partition for p in partitions}

    def resume(self, partitions) -> None:
        self.paused -= {p.partition for p in partitions}

    def get_watermark_offsets(
        self, partition, timeout: float = 0, cached: bool = False
    ) -> tuple[int, int]:
        """A paused partition is not fetched, so what is known of it stays."""
        return 40, 90 if cached else self.ends.get(partition.partition, 90)

    def commit(self, offsets, asynchronous: bool) -> None:
        """Done at once; the answer is heard later, as librdkafka has it."""
        assert asynchronous
        if self.commit_errors:
            self.commit_answers.append((self.commit_errors.pop(0), offsets))
            return
        self.commits.append({p.partition: p.offset for p in offsets})
        self.stored |= {p.partition: p for p in offsets}
        self.commit_answers.append((None, offsets))

    def answer_commits(self) -> None:
        while self.commit_answers and not self.silent:
            self.on_commit(*self.commit_answers.pop(0))

    def close(self) -> None:
        self.closed = True


@dataclass
class Delivered:
    """What a producer's delivery report tells of the record."""

    place: tuple[int | None, int | None]

    def partition(self) -> int | None:
        return self.place[0]

    def offset(self) -> int | None:
        return self.place[1]


class EitherWay:
    """A fake publisher that an event loop may await, too."""

    publish_all: Callable[..., Any]

    async def publish_awaited(self, updates: Any, headers: Any = ()) -> Any:
        return self.publish_all(updates, headers)


class FakeKafkaProducer:
    """Keeps what is produced until `answer`; with `acks`, answers at once in `poll`.

    Where it does not send, what is produced stays in its queue and can be taken back.
    """

    def __init__(
        self,
        *,
        acks: bool = True,
        sends: bool = True,
        refuses: Exception | None = None,
    ) -> None:
        self.acks = acks and sends
        self.sends = sends
        self.refuses = refuses
        self.taken_back: set[int] = set()
        self.asked: list[str] = []
        self.produced: list[tuple[str, bytes, bytes]] = []
        self.headers: list[Any] = []
        self.waiting: list[Any] = []
        self.next_offset = 0
        self.polls = 0
        self.closed = False

    def list_topics(self, topic: str, timeout: float) -> None:
        self.asked.append(topic)

    def produce(
        self,
        topic,
        value,
        key,
        partition=-1,
        callback=None,
        on_delivery=None,
        timestamp=0,
        headers=None,
    ) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.produced.append((topic, key, value))
        self.headers.append(headers)
        self.waiting.append(callback or on_delivery)

    def answer(self, error: int | None = None, offset: int | None = None) -> None:
        """Report the oldest record that waits."""
        place = (3, self.next_offset if offset is None else offset)
        self.next_offset += 1
        on_delivery = self.waiting.pop(0)
        on_delivery(KafkaError(error) if error is not None else None, Delivered(place))

    def poll(self, timeout: float) -> int:
        self.polls += 1
        for code in self.taken_back:
            while self.waiting:
                self.answer(code)
        while self.acks and self.waiting:
            self.answer()
        time.sleep(0.002)
        return 0

    def purge(
        self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True
    ) -> None:
        if in_queue and not self.sends:
            self.taken_back.add(KafkaError._PURGE_QUEUE)
        if in_flight and self.sends:
            self.taken_back.add(KafkaError._PURGE_INFLIGHT)

    def flush(self, timeout: float) -> int:
        self.poll(timeout)
        return len(self.waiting)

    def close(self) -> None:
        self.poll(0)
        assert not self.waiting, "it would wait for ever"
        self.closed = True

    def __len__(self) -> int:
        return len(self.waiting)

    def __bool__(self) -> bool:
        return True  # as confluent_kafka's, however empty


def refusal(code: str, status: int = 400, **members: Any) -> ClientError:
    """An answer of DynamoDB that is an error; its text quotes a value, as AWS may."""
    answer: Any = {
        "Error": {"Code": code, "Message": "Secret-Value was not accepted"},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **members,
    }
    return ClientError(answer, "UpdateItem")


class FakeDynamoDB:
    """A table as a dict: the model that the writes' own expressions are run on.

    `troubles` are met by the next calls, one each; None lets one through. A trouble
    in `lost_answers` is met after the write has landed.
    """

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.troubles: list[Exception | None] = []
        self.lost_answers: list[Exception | None] = []

    def update_item(self, **call: Any) -> dict[str, Any]:
        if self.troubles and (trouble := self.troubles.pop(0)):
            raise trouble
        self._execute(call)
        if self.lost_answers and (trouble := self.lost_answers.pop(0)):
            raise trouble
        return {"Attributes": dict(self.items[call["Key"]["PatientId"]["S"]])}

    def _execute(self, call: dict[str, Any]) -> None:
        assert call["ConditionExpression"] == (
            "attribute_not_exists(PatientId) OR "
            "#m = :m AND (attribute_not_exists(#f) OR #f < :f)"
        )
        names = call["ExpressionAttributeNames"]
        values = call["ExpressionAttributeValues"]
        key = call["Key"]["PatientId"]["S"]
        item = self.items.get(key)
        if item is not None and not (
            item.get(names["#m"]) == values[":m"]
            and _is_below(item, names["#f"], values[":f"])
        ):
            raise refusal("ConditionalCheckFailedException", Item=dict(item))
        item = item or {"PatientId": {"S": key}}
        sets, _, removals = call["UpdateExpression"].partition(" REMOVE ")
        for assignment in sets.removeprefix("SET ").split(", "):
            name, value = assignment.split(" = ")
            item[names[name]] = values[value]
        for name in filter(None, removals.split(", ")):
            item.pop(names[name], None)
        self.items[key] = item

    def delete_item(self, TableName: str, Key: dict[str, Any]) -> None:
        self.items.pop(Key["PatientId"]["S"], None)

    def batch_execute_statement(self, Statements: list[Any]) -> dict[str, Any]:
        return {"Responses": [self._answer(statement) for statement in Statements]}

    def _answer(self, statement: Any) -> dict[str, Any]:
        """As DynamoDB: a statement fails alone, a connection fails for all."""
        text, values = statement["Statement"], statement["Parameters"]
        trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, ClientError):
            item = trouble.response.get("Item", {})
            return _failed(trouble.response["Error"]["Code"], Item=item)
        if trouble:
            raise trouble
        run = self._insert if text.startswith("INSERT") else self._update
        failure = run(text, values)
        lost = self.lost_answers.pop(0) if self.lost_answers else None
        if isinstance(lost, ClientError):
            return _failed(lost.response["Error"]["Code"])
        if lost:
            raise lost
        if failure and "ReturnValuesOnConditionCheckFailure" not in statement:
            failure["Error"].pop("Item", None)
        return failure or {"TableName": "t"}

    def _insert(self, text: str, values: list[Any]) -> dict[str, Any]:
        item = dict(zip(re.findall(r"'(.+?)': \?", text), values, strict=True))
        key = item["PatientId"]["S"]
        if key in self.items:
            return _failed("DuplicateItem")
        self.items[key] = item
        return {}

    def _update(self, text: str, values: list[Any]) -> dict[str, Any]:
        changes, conditions = text.split(" WHERE ")
        sets = re.findall(r'SET "(.+?)"=\?', changes)
        written, given = values[: len(sets)], values[len(sets) :]
        item = self.items.get(given[0]["S"])
        if item is None:
            return _failed("ConditionalCheckFailed")
        if not _holds(item, conditions, given):
            return _failed("ConditionalCheckFailed", Item=dict(item))
        item.update(zip(sets, written, strict=True))
        for name in re.findall(r'REMOVE "(.+?)"', changes):
            item.pop(name, None)
        return {}


BETWEEN_TERMS = r" AND (?![^(]*\))"


def _holds(item: dict[str, Any], conditions: str, values: list[Any]) -> bool:
    """Whether each term of a statement's condition does; each is of a known form."""
    left = [*values]
    held = True
    for term in re.split(BETWEEN_TERMS, conditions):
        if equal := re.fullmatch(r'"(.+?)"=\?', term):
            held &= item.get(equal[1]) == left.pop(0)
        elif missing := re.fullmatch(r'"(.+?)" IS MISSING', term):
            held &= missing[1] not in item
        else:
            form = r'NOT \("(.+?)" IS NOT MISSING AND NOT "\1" < \?\)'
            fence = re.fullmatch(form, term)
            assert fence is not None, term
            held &= _is_below(item, fence[1], left.pop(0))
    assert not left
    return held


def _is_below(item: dict[str, Any], fence: str, value: dict[str, str]) -> bool:
    """What is no number compares with none."""
    held = item.get(fence, {"N": "-1"})
    return "N" in held and float(held["N"]) < int(value["N"])


def _failed(code: str, **members: Any) -> dict[str, Any]:
    told = {"Code": code.removesuffix("Exception"), "Message": "Secret", **members}
    return {"Error": told}


class Answer:
    """A future that has come."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self, timeout: float | None = None) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


_BROKER_DEFAULTS = {
    "min.insync.replicas": "1",
    "unclean.leader.election.enable": "true",
}


class FakeAdmin:
    """A cluster's topics: name to partitions and configuration."""

    def __init__(self, brokers: int = 1) -> None:
        self.brokers = dict.fromkeys(range(brokers))
        self.topics: dict[str, Any] = {}
        self.created: list[Any] = []
        self.failure: int | None = None
        self.closed = False

    def __len__(self) -> int:
        return 0  # as confluent_kafka's with nothing in flight, which is false then

    def __enter__(self) -> FakeAdmin:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def list_topics(self, topic: str | None = None, timeout: float = 0) -> Any:
        return self

    def create_topics(self, new, operation_timeout: float) -> dict[str, Answer]:
        (topic,) = new
        exists = topic.topic in self.topics
        error = self.failure or (exists and KafkaError.TOPIC_ALREADY_EXISTS)
        if error:
            return {topic.topic: Answer(KafkaException(KafkaError(error)))}
        self.created.append(topic)
        replicas = SimpleNamespace(replicas=[*range(topic.replication_factor)])
        self.topics[topic.topic] = SimpleNamespace(
            id="topic-1",
            partitions=dict.fromkeys(range(topic.num_partitions), replicas),
            config={**topic.config},
        )
        return {topic.topic: Answer(None)}

    def describe_topics(self, names, request_timeout: float) -> dict[str, Answer]:
        (name,) = names.topic_names
        if self.failure is not None:
            return {name: Answer(KafkaException(KafkaError(self.failure)))}
        topic = self.topics[name]
        found = SimpleNamespace(topic_id=topic.id, partitions=[*topic.partitions])
        return {name: Answer(found)}

    def describe_configs(self, resources, request_timeout: float) -> dict[Any, Answer]:
        (resource,) = resources
        config = {**_BROKER_DEFAULTS, **self.topics[resource.name].config}
        return {
            resource: Answer(
                {name: SimpleNamespace(value=value) for name, value in config.items()}
            )
        }
