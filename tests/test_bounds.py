"""Bounds: the threads and the seconds that an outside system may take from us."""

from __future__ import annotations

from typing import Any

import pytest

from profiles.api import arrival, bodies, front, posting
from profiles.consumer import loop, waiting
from profiles.dynamodb import attempt, client, reader
from profiles.kafka import (
    clients,
    dead_letters,
    flow,
    groups,
    producer,
    reader_pool,
    topics,
)
from profiles.pages import pipeline
from profiles.runtime import background, gates


@pytest.fixture(autouse=True)
def anew():
    """Publisher and reader are made by the settings of the test."""
    made = (posting.publisher, reader.profiles, topics.watch)
    for each in made:
        each.cache_clear()
    yield
    for each in made:
        each.cache_clear()


def _waiters() -> int:
    waiters: Any = reader.profiles()._waiters
    return int(waiters._initial_value)


@pytest.mark.parametrize("threads", [4, 8, 18, 64])
def test_kafka_and_dynamodb_stalled_together_leave_threads_to_answer(settings, threads):
    settings.WEB_THREADS = threads
    publishing = posting.publisher()._gate._capacity
    reading = reader.profiles()._gate._capacity
    assert publishing + reading < threads


@pytest.mark.parametrize("threads", [4, 8, 18, 64])
def test_those_who_wait_for_a_receipt_take_few_threads(settings, threads):
    settings.WEB_THREADS = threads
    waiting = _waiters()
    assert waiting + posting.publisher()._gate._capacity < threads
    assert waiting <= threads / 4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_with_few_threads_each_kind_has_one(settings, threads):
    settings.WEB_THREADS = threads
    assert posting.publisher()._gate._capacity >= 1
    assert reader.profiles()._gate._capacity >= 1
    assert _waiters() >= 1


def test_timelines_take_few_threads(settings):
    assert reader_pool.SIZE <= settings.WEB_THREADS / 4


def test_an_update_is_answered_within_five_seconds():
    assert producer.QUEUE_S < producer.ANSWER_S
    assert producer.ANSWER_S + gates.STALLED_S <= 5
    assert producer.ANSWER_S + gates.FIRST_S <= 5


def test_what_is_under_way_on_the_event_loop_has_its_bounds():
    assert bodies.MANY <= producer.UPDATES <= 100_000  # Kafka's client holds as many
    assert bodies.MANY_BYTES <= bodies.large._most <= 64 * 1024 * 1024
    assert arrival.GRACE_S <= 5
    assert arrival.GRACE_S + bodies.MANY_BYTES / arrival.RATE < 150
    assert bodies.FORM_BYTES * front.WAITING <= 64 * 1024 * 1024


def test_a_dead_letter_is_given_up_within_its_attempt():
    assert clients.LETTER_TIMEOUT_MS / 1000 < dead_letters.ATTEMPT_S <= 5


def test_a_call_of_dynamodb_is_over_within_seconds():
    config: Any = client.connect().meta.config
    assert config.connect_timeout <= 2
    assert config.read_timeout <= 5
    assert config.retries["total_max_attempts"] == 1


def test_a_consumer_ends_within_the_ten_seconds_that_sigterm_may_take():
    config: Any = client.connect().meta.config
    assert attempt.ATTEMPT_S <= waiting.GIVE_UP_S
    assert waiting.GIVE_UP_S + config.read_timeout + loop.LEAVE_S < 10


def test_a_question_to_kafka_is_over_within_seconds():
    assert topics.DESCRIBE_TIMEOUT_S <= 2
    assert groups.READ_TIMEOUT_S <= 5
    assert max(flow.LOG_TIMEOUT_S, reader_pool.PAGE_PATIENCE_S) <= 3
    assert pipeline.FIRST_READING_S <= 3
    assert background.EVERY_S < topics.SILENCE_S <= 10
