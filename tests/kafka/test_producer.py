"""The producer: a receipt comes after the acknowledgement, and never without one."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from profiles.core.records import ProducerRecord
from profiles.core.updates import Receipt, Source
from profiles.kafka import producer
from profiles.kafka.producer import NotAcknowledged, Publisher
from profiles.kafka.topics import KafkaUnavailable, WrongTopic
from profiles.runtime import gates
from profiles.runtime.gates import Budget
from tests import front
from tests.fakes import TOPIC, FakeKafkaProducer

UPDATE = ProducerRecord("1", b'{"PatientId":"1","FirstName":"John","Sex":null}')


class Made:
    """Makes the producers it was given, one after the other."""

    def __init__(self, *fakes: FakeKafkaProducer) -> None:
        self.left = [*fakes]

    def __call__(self) -> Any:
        return self.left.pop(0)


class Awaiting(Publisher):
    """Its updates are awaited on an event loop; `capacity` bounds their number."""

    def __init__(self, make, topic, is_still, capacity):
        super().__init__(make, topic, is_still, capacity)
        self._budget = Budget(capacity)

    def publish_all(self, updates, headers=()):
        return run(self.publish_awaited(updates, headers))


def run(awaited) -> Any:
    return asyncio.run_coroutine_threadsafe(awaited, front.loop()).result()


KINDS: list[type[Publisher]] = [Publisher]


@pytest.fixture(params=[Publisher, Awaiting], ids=["waiting", "awaited"], autouse=True)
def kind(request, monkeypatch):
    """What is true of a thread that waits is true of an event loop."""
    monkeypatch.setattr(sys.modules[__name__], "KINDS", [request.param])


@contextmanager
def publisher(*fakes, capacity=4, topic=lambda: TOPIC, is_still=lambda *_: True):
    """A publisher of these producers; their poll threads end with the test."""
    [kind] = KINDS
    publisher = kind(Made(*fakes), topic, is_still, capacity)
    try:
        yield publisher
    finally:
        for fake in fakes:
            fake.waiting.clear()
        if publisher._session is not None:
            publisher._session.retire()


def until(condition) -> None:
    """Wait for what another thread brings about."""
    tick = threading.Event()
    for _ in range(2500):
        if condition():
            return
        tick.wait(0.002)
    pytest.fail("it did not come about in 5 s")


def test_the_receipt_names_topic_id_partition_and_offset():
    kafka = FakeKafkaProducer()
    with publisher(kafka) as to_topic:
        kafka.next_offset = 41
        assert to_topic.publish(UPDATE) == Receipt(Source(TOPIC.id, 3), 41)


def test_the_record_is_keyed_by_patient_and_holds_just_what_was_supplied():
    kafka = FakeKafkaProducer()
    with publisher(kafka) as to_topic:
        to_topic.publish(UPDATE)
    value = b'{"PatientId":"1","FirstName":"John","Sex":null}'
    assert kafka.produced == [(TOPIC.name, b"1", value)]


def test_a_producer_connects_before_the_first_update():
    kafka = FakeKafkaProducer()
    with publisher(kafka) as to_topic:
        to_topic.connect()
        until(lambda: kafka.asked == [TOPIC.name])
        to_topic.publish(UPDATE)
    assert kafka.asked == [TOPIC.name]


def test_a_producer_that_can_not_connect_delivers_once_it_can():
    class Alone(FakeKafkaProducer):
        def list_topics(self, topic: str, timeout: float) -> None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    with publisher(Alone()) as to_topic:
        assert to_topic.publish(UPDATE).offset == 0


def test_publish_waits_for_the_acknowledgement():
    kafka = FakeKafkaProducer(acks=False)
    with publisher(kafka) as to_topic, ThreadPoolExecutor(1) as pool:
        receipt = pool.submit(to_topic.publish, UPDATE)
        until(lambda: kafka.polls > 3 and kafka.waiting)
        assert not receipt.done()
        kafka.answer()
        assert receipt.result(5).offset == 0


@pytest.mark.parametrize("offset", [-1, -1001])
def test_an_acknowledgement_without_an_offset_is_no_receipt(offset):
    kafka = FakeKafkaProducer(acks=False)
    with publisher(kafka) as to_topic, ThreadPoolExecutor(1) as pool:
        receipt = pool.submit(to_topic.publish, UPDATE)
        until(lambda: kafka.waiting)
        kafka.answer(offset=offset)
        with pytest.raises(NotAcknowledged, match="offset"):
            receipt.result(5)


def test_a_full_queue_is_told_and_the_producer_kept():
    kafka = FakeKafkaProducer(refuses=BufferError("queue full"))
    with publisher(kafka) as to_topic:
        with pytest.raises(NotAcknowledged, match="too many"):
            to_topic.publish(UPDATE)
        kafka.refuses = None
        assert to_topic.publish(UPDATE).offset == 0


def test_a_queue_that_fills_halfway_is_told_from_there_on():
    class Filling(FakeKafkaProducer):
        def produce(self, *record: Any, **options: Any) -> None:
            if len(self.produced) == 2:
                raise BufferError
            super().produce(*record, **options)

    kafka = Filling()
    with publisher(kafka) as to_topic:
        *taken, third, last = to_topic.publish_all([UPDATE] * 4)
        assert [each.offset for each in taken] == [0, 1]
        assert "too many" in str(third)
        assert "too many" in str(last)
        assert len(kafka.produced) == 2


def test_each_of_many_is_told_its_own_verdict():
    kafka = FakeKafkaProducer(acks=False)
    with publisher(kafka) as to_topic, ThreadPoolExecutor(1) as pool:
        verdicts = pool.submit(to_topic.publish_all, [UPDATE] * 3)
        until(lambda: len(kafka.waiting) == 3)
        kafka.answer(offset=7)
        kafka.answer(KafkaError.NOT_ENOUGH_REPLICAS)
        kafka.answer(offset=9)
        first, second, third = verdicts.result(5)
    assert (first.offset, third.offset) == (7, 9)
    assert "NOT_ENOUGH_REPLICAS" in str(second)


def test_the_late_of_many_are_told_so_beside_the_acknowledged(monkeypatch):
    monkeypatch.setattr(producer, "ANSWER_S", 1)
    kafka = FakeKafkaProducer(acks=False)
    with publisher(kafka) as to_topic, ThreadPoolExecutor(1) as pool:
        verdicts = pool.submit(to_topic.publish_all, [UPDATE] * 2)
        until(lambda: len(kafka.waiting) == 2)
        kafka.answer()
        first, second = verdicts.result(5)
    assert first.offset == 0
    assert "in time" in str(second)


def test_a_timeout_replaces_the_producer(monkeypatch):
    silent, good = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    with publisher(silent, good) as to_topic:
        with monkeypatch.context() as soon:
            soon.setattr(producer, "ANSWER_S", 0.05)
            with pytest.raises(NotAcknowledged, match="in time"):
                to_topic.publish(UPDATE)
        assert to_topic.publish(UPDATE).offset == 0
        assert len(good.produced) == 1


def test_a_fatal_error_replaces_the_producer():
    fatal = KafkaException(KafkaError(KafkaError._FATAL, "fenced", True))
    broken, good = FakeKafkaProducer(refuses=fatal), FakeKafkaProducer()
    with publisher(broken, good) as to_topic:
        with pytest.raises(NotAcknowledged, match="_FATAL"):
            to_topic.publish(UPDATE)
        assert to_topic.publish(UPDATE).offset == 0


def test_a_record_that_the_client_refuses_keeps_the_producer():
    large = KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    kafka = FakeKafkaProducer(refuses=large)
    with publisher(kafka) as to_topic:
        with pytest.raises(NotAcknowledged, match="MSG_SIZE_TOO_LARGE"):
            to_topic.publish(UPDATE)
        kafka.refuses = None
        assert to_topic.publish(UPDATE).offset == 0


def test_a_producer_that_failed_for_one_of_many_is_replaced(monkeypatch):
    monkeypatch.setattr(producer, "ANSWER_S", 1)
    failing, good = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    with publisher(failing, good) as to_topic, ThreadPoolExecutor(1) as pool:
        verdicts = pool.submit(to_topic.publish_all, [UPDATE] * 2)
        until(lambda: len(failing.waiting) == 2)
        failing.answer(KafkaError._MSG_TIMED_OUT)
        first, late = verdicts.result(5)
        assert "_MSG_TIMED_OUT" in str(first)
        assert "in time" in str(late)
        assert to_topic.publish(UPDATE).offset == 0
        assert len(good.produced) == 1


def deliver(to_topic, kafka, error):
    """Publish, and have the delivery fail."""
    with ThreadPoolExecutor(1) as pool:
        receipt = pool.submit(to_topic.publish, UPDATE)
        until(lambda: kafka.waiting)
        kafka.answer(error)
        receipt.result(5)


@pytest.mark.parametrize("error", [KafkaError._MSG_TIMED_OUT, KafkaError._FATAL])
def test_a_delivery_that_failed_replaces_the_producer(error):
    failing, good = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    with publisher(failing, good) as to_topic:
        with pytest.raises(NotAcknowledged):
            deliver(to_topic, failing, error)
        assert to_topic.publish(UPDATE).offset == 0
        assert len(good.produced) == 1


def test_a_report_of_any_error_replaces_the_producer():
    """After one that is final, Kafka's client sends nothing more."""
    refusing, good = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    with publisher(refusing, good) as to_topic:
        with pytest.raises(NotAcknowledged, match="TOPIC_AUTHORIZATION_FAILED"):
            deliver(to_topic, refusing, KafkaError.TOPIC_AUTHORIZATION_FAILED)
        assert to_topic.publish(UPDATE).offset == 0


def test_an_update_that_was_not_sent_in_time_is_taken_back(monkeypatch):
    """Left in the queue it would be stored as late as Kafka is back."""
    monkeypatch.setattr(producer, "ANSWER_S", 0.2)
    stalled = FakeKafkaProducer(sends=False)
    with publisher(stalled) as to_topic:
        with pytest.raises(NotAcknowledged, match="in time"):
            to_topic.publish(UPDATE)
        assert stalled.taken_back  # at once, not when nobody waits any more
        until(lambda: stalled.produced and not stalled.waiting)


def test_an_update_that_was_sent_keeps_its_producer_beside_one_that_is_late(
    monkeypatch,
):
    """Sent again by another producer, or after a gap, it would be stored twice."""
    old, new = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    with publisher(old, new) as to_topic, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(producer, "ANSWER_S", 0.2)
        late = pool.submit(to_topic.publish, UPDATE)
        until(lambda: len(old.waiting) == 1)
        monkeypatch.setattr(producer, "ANSWER_S", 5)
        sent = pool.submit(to_topic.publish, UPDATE)
        until(lambda: len(old.waiting) == 2)
        assert isinstance(late.exception(5), NotAcknowledged)
        assert to_topic.publish(UPDATE).offset == 0
        assert len(new.produced) == 1
        old.acks = True
        assert sent.result(5).offset == 1
    assert len(old.produced) == 2


def test_nothing_is_sent_by_a_producer_after_something_was_taken_back(monkeypatch):
    kafka = FakeKafkaProducer()
    retired = producer._Session(Made(kafka)(), TOPIC.name, lambda: None)
    fresh = producer._Session(Made(FakeKafkaProducer())(), TOPIC.name, lambda: None)
    retired.retire()
    sessions = iter([retired, fresh])  # as for a thread that was overtaken
    with publisher() as to_topic:
        monkeypatch.setattr(to_topic, "_current", lambda _: next(sessions))
        assert to_topic.publish(UPDATE).offset == 0
    fresh.retire()
    assert kafka.produced == []


def test_nothing_is_taken_back_between_two_updates_that_are_sent_together():
    """The second would be sent after a gap, and so numbered anew."""

    class Slow(FakeKafkaProducer):
        def produce(self, *record: Any, **options: Any) -> None:
            super().produce(*record, **options)
            if len(self.produced) == 1:
                half_way.set()
                go_on.wait(5)

        def purge(self, *queues: bool, **named: bool) -> None:
            taken_back_after.append(len(self.produced))
            super().purge(*queues, **named)

    half_way, go_on = threading.Event(), threading.Event()
    taken_back_after: list[int] = []
    session = producer._Session(Made(Slow(acks=False))(), TOPIC.name, lambda: None)
    delivery = producer._Delivery(TOPIC.id, 2, {}, lambda: None)
    reports = [producer._Report(delivery) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        sent = pool.submit(session.send, TOPIC.name, [UPDATE] * 2, (), reports)
        assert half_way.wait(5)
        retired = pool.submit(session.retire)
        until(lambda: session._sending.locked())
        with suppress(TimeoutError):
            retired.result(0.1)  # it must not end before the second one is sent
        go_on.set()
        assert sent.result(5)
        retired.result(5)
    assert taken_back_after[0] == 2


def test_what_nobody_waits_for_any_more_is_dropped(monkeypatch):
    monkeypatch.setattr(producer, "ANSWER_S", 0.1)
    silent = FakeKafkaProducer(acks=False)
    with publisher(silent, FakeKafkaProducer()) as to_topic:
        with pytest.raises(NotAcknowledged):
            to_topic.publish(UPDATE)
        until(lambda: threads() == 0)
        assert silent.waiting == []


def test_who_waits_on_a_producer_that_is_replaced_still_gets_an_answer():
    old, new = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    with publisher(old, new) as to_topic, ThreadPoolExecutor(2) as pool:
        first = pool.submit(to_topic.publish, UPDATE)
        until(lambda: len(old.waiting) == 1)
        second = pool.submit(to_topic.publish, UPDATE)
        until(lambda: len(old.waiting) == 2)
        old.answer(KafkaError._MSG_TIMED_OUT)
        assert isinstance(first.exception(5), NotAcknowledged)
        assert to_topic.publish(UPDATE).offset == 0
        polls = old.polls
        until(lambda: old.polls > polls)
        old.acks = True
        assert second.result(5).offset == 1


def test_a_replaced_producer_is_polled_no_longer_than_someone_waits():
    old, new = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    with publisher(old, new) as to_topic:
        with pytest.raises(NotAcknowledged):
            deliver(to_topic, old, KafkaError._MSG_TIMED_OUT)
        to_topic.publish(UPDATE)
        until(lambda: threads() == 1)
    until(lambda: threads() == 0)


def threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("producer-poll")


def test_a_late_failure_of_the_old_producer_does_not_replace_the_new_one():
    old, new = FakeKafkaProducer(acks=False), FakeKafkaProducer()
    with publisher(old, new) as to_topic, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(to_topic.publish, UPDATE) for _ in range(2)]
        until(lambda: len(old.waiting) == 2)
        for _ in waiting:
            old.answer(KafkaError._MSG_TIMED_OUT)
            until(lambda: sum(each.done() for each in waiting) > len(new.produced))
            to_topic.publish(UPDATE)
        assert len(new.produced) == 2


@pytest.mark.parametrize("problem", [KafkaUnavailable("away"), WrongTopic("grown")])
def test_nothing_is_produced_where_the_topic_is_not_to_be_written_to(problem):
    kafka = FakeKafkaProducer()

    def topic():
        raise problem

    with publisher(kafka, topic=topic) as to_topic, pytest.raises(type(problem)):
        to_topic.publish(UPDATE)
    assert kafka.produced == []


def test_beyond_capacity_a_stalled_kafka_sheds_at_once():
    kafka = FakeKafkaProducer(acks=False)
    with publisher(kafka, capacity=2) as to_topic, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(to_topic.publish, UPDATE) for _ in range(2)]
        until(lambda: len(kafka.waiting) == 2)
        with pytest.raises(NotAcknowledged, match="too many"):
            to_topic.publish(UPDATE)
        assert len(kafka.produced) == 2
        kafka.acks = True
        assert {each.result(5).offset for each in waiting} == {0, 1}


@pytest.fixture
def patient(monkeypatch):
    """A machine that is busy for a while is no Kafka that stalls."""
    for module, name in [
        *((gates, name) for name in ("FIRST_S", "STALLED_S")),
        *((producer, name) for name in ("ANSWER_S", "QUEUE_S")),
    ]:
        monkeypatch.setattr(module, name, 30)


def test_beyond_capacity_a_kafka_that_answers_is_waited_for(patient):
    kafka = FakeKafkaProducer()
    with publisher(kafka, capacity=2) as to_topic, ThreadPoolExecutor(12) as pool:
        receipts = [pool.submit(to_topic.publish, UPDATE) for _ in range(60)]
        offsets = {receipt.result(30).offset for receipt in receipts}
    assert offsets == {*range(60)}


def test_a_kafka_that_answers_slowly_is_waited_for_however_long_the_queue():
    """The last of them waits for over twice as long as a stall is put up with."""

    class Slow(FakeKafkaProducer):
        def poll(self, timeout: float) -> int:
            time.sleep(gates.STALLED_S / 5)
            if self.waiting:
                self.answer()
            return 0

    with publisher(Slow(), capacity=1) as to_topic, ThreadPoolExecutor(12) as pool:
        receipts = [pool.submit(to_topic.publish, UPDATE) for _ in range(12)]
        assert {receipt.result(10).offset for receipt in receipts} == {*range(12)}


def test_a_long_queue_before_a_slow_kafka_is_answered_in_time(monkeypatch):
    monkeypatch.setattr(producer, "ANSWER_S", 0.4)
    monkeypatch.setattr(producer, "QUEUE_S", 0.2)
    slow = [FakeKafkaProducer(acks=False) for _ in range(9)]
    with publisher(*slow, capacity=1) as to_topic, ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(to_topic.publish, UPDATE) for _ in range(9)]
        refusals = [answer.exception(timeout=10) for answer in answers]
    assert {type(refusal) for refusal in refusals} == {NotAcknowledged}


def test_no_more_than_the_capacity_waits_for_kafka_at_a_time():
    waiting: list[int] = []

    class Watched(FakeKafkaProducer):
        def poll(self, timeout: float) -> int:
            waiting.append(len(self))
            return super().poll(timeout)

    with publisher(Watched(), capacity=3) as to_topic, ThreadPoolExecutor(12) as pool:
        assert len([*pool.map(to_topic.publish, [UPDATE] * 40)]) == 40
    assert max(waiting) == 3


def test_a_failure_frees_its_place():
    kafka = FakeKafkaProducer(refuses=BufferError())
    with publisher(kafka, capacity=1) as to_topic:
        for _ in range(3):
            with pytest.raises(NotAcknowledged):
                to_topic.publish(UPDATE)
        kafka.refuses = None
        to_topic.publish(UPDATE)


def test_no_failure_tells_a_value():
    secret = ProducerRecord("1", b'{"PatientId":"1","FirstName":"Secret"}')
    fatal = KafkaException(KafkaError(KafkaError._FATAL, "fenced", True))
    with (
        publisher(FakeKafkaProducer(refuses=fatal)) as to_topic,
        pytest.raises(NotAcknowledged) as failure,
    ):
        to_topic.publish(secret)
    assert "Secret" not in repr(failure.value)


def test_a_producer_that_can_not_be_made_is_a_failure_to_acknowledge():
    def make():
        raise KafkaException(KafkaError(KafkaError._INVALID_ARG))

    with pytest.raises(NotAcknowledged, match="_INVALID_ARG"):
        Publisher(make, lambda: TOPIC, lambda *_: True, 1).publish(UPDATE)


def test_an_offset_that_began_anew_is_no_receipt_of_the_topic_that_was():
    """Its fences are higher: a wait would end at once, without the update."""
    kafka = FakeKafkaProducer()
    current = [TOPIC.id]
    with publisher(kafka, is_still=lambda was, _: was == current[0]) as to_topic:
        kafka.next_offset = 7
        assert to_topic.publish(UPDATE).offset == 7
        current[0], kafka.next_offset = "topic-2", 0
        with pytest.raises(NotAcknowledged, match="recreated"):
            to_topic.publish(UPDATE)


def test_a_topic_is_looked_at_again_for_the_first_offset_of_a_partition_only():
    looks = []

    def is_still(topic_id, _):
        looks.append(topic_id)
        return True

    with publisher(FakeKafkaProducer(), is_still=is_still) as to_topic:
        for _ in range(5):
            to_topic.publish(UPDATE)
    assert looks == [TOPIC.id]


def test_a_first_offset_is_no_receipt_while_kafka_does_not_say_which_topic_it_is_on():
    with (
        publisher(FakeKafkaProducer(), is_still=lambda *_: False) as to_topic,
        pytest.raises(NotAcknowledged, match="can't say"),
    ):
        to_topic.publish(UPDATE)


def test_the_offsets_of_another_topic_are_not_compared_with_those_of_the_one_before():
    kafka = FakeKafkaProducer()
    now = [TOPIC]
    with publisher(kafka, topic=lambda: now[0]) as to_topic:
        kafka.next_offset = 7
        to_topic.publish(UPDATE)
        now[0], kafka.next_offset = replace(TOPIC, id="topic-2"), 0
        assert to_topic.publish(UPDATE) == Receipt(Source("topic-2", 3), 0)


def test_an_offset_after_one_that_could_not_be_proven_is_doubted_too():
    """It is above the one before it, of which nobody knows which topic it is on."""
    answers, asked = [False, False, True], []

    def is_still(topic_id, _):
        asked.append(topic_id)
        return answers.pop(0)

    with publisher(FakeKafkaProducer(), is_still=is_still) as to_topic:
        for _ in range(2):
            with pytest.raises(NotAcknowledged, match="can't say"):
                to_topic.publish(UPDATE)
        assert to_topic.publish(UPDATE).offset == 2
        assert to_topic.publish(UPDATE).offset == 3
    assert len(asked) == 3


def test_threads_that_see_the_topic_and_its_successor_do_not_disturb_each_other():
    class Overtaken(dict[str, dict[int, int]]):
        """Another thread, which saw the successor, comes right after any look here."""

        def __contains__(self, topic_id: object) -> bool:
            found = super().__contains__(topic_id)
            to_topic._highest = {"topic-2": {}}
            return found

        def get(self, *arguments: Any) -> Any:
            found = super().get(*arguments)
            to_topic._highest = {"topic-2": {}}
            return found

    with publisher(FakeKafkaProducer()) as to_topic:
        to_topic.publish(UPDATE)
        to_topic._highest = Overtaken(to_topic._highest)
        assert to_topic.publish(UPDATE).offset == 1
