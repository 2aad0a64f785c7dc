"""Background reading: again and again while it is used, and over when it is not."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, nullcontext
from itertools import count

from profiles.runtime import background
from tests.engines.process import wait_until


class Away(Exception):
    """What is read is away: its text is shown."""


def latest(reader, most_s=5):
    return reader.latest(time.monotonic() + most_s)


def fresh(reader, most_s=5):
    now = time.monotonic()
    return reader.newer_than(now, now + most_s)


def test_the_first_use_waits_for_the_first_reading(observe):
    assert latest(observe(lambda: 1)).value == 1


def test_no_one_waits_longer_than_asked_for_the_first_reading(observe):
    release = threading.Event()
    reader = observe(release.wait)
    seen = latest(reader, most_s=0.01)
    assert (seen.value, seen.problem) == (None, "It has not answered yet")
    release.set()


def test_a_later_use_does_not_wait(observe, monkeypatch):
    monkeypatch.setattr(background, "EVERY_S", 60)
    readings = count(1)
    reader = observe(lambda: next(readings))
    assert [latest(reader).value for _ in range(10)] == [1] * 10


def test_a_reading_newer_than_a_moment_began_after_it(observe, monkeypatch):
    monkeypatch.setattr(background, "EVERY_S", 60)
    reader = observe(time.monotonic)
    latest(reader)
    asked = time.monotonic()
    assert fresh(reader).value > asked


def test_a_reading_that_is_under_way_is_none_newer(observe):
    reading, release = threading.Event(), threading.Event()
    readings = count(1)

    def read():
        reading.set()
        release.wait(5)
        return next(readings)

    reader = observe(read)
    reader.start()
    assert reading.wait(5)
    threading.Timer(0.05, release.set).start()
    assert fresh(reader).value == 2


def test_one_new_reading_serves_all_who_wait_for_it(observe, monkeypatch):
    monkeypatch.setattr(background, "EVERY_S", 60)
    readings = count(1)
    reader = observe(lambda: next(readings))
    latest(reader)
    seen = []
    moment = time.monotonic()
    threads = [
        threading.Thread(
            target=lambda: seen.append(reader.newer_than(moment, moment + 5).value)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [2] * 8


def test_without_a_newer_reading_in_time_there_is_a_problem(observe):
    release = threading.Event()
    readings = count(1)

    def read():
        if next(readings) > 1:
            release.wait(5)
        return 1

    reader = observe(read)
    latest(reader)
    seen = fresh(reader, most_s=0.05)
    assert (seen.value, seen.problem) == (None, "It has not answered yet")
    release.set()


def test_a_failure_is_reported_and_reading_goes_on(observe, monkeypatch):
    monkeypatch.setattr(background, "EVERY_S", 60)
    answers = [Away("it does not answer")]

    def read():
        if answers:
            raise answers.pop()
        return 2

    reader = observe(read, Away)
    assert latest(reader).problem == "it does not answer"
    assert fresh(reader).value == 2


def test_the_last_success_outlives_a_failure(observe, monkeypatch):
    monkeypatch.setattr(background, "EVERY_S", 60)
    answers = [7]

    def read():
        if answers:
            return answers.pop()
        raise Away("it does not answer")

    reader = observe(read, Away)
    assert latest(reader).value == 7
    assert fresh(reader).problem == "it does not answer"
    assert reader.last_success.value == 7


def test_an_unexpected_failure_is_reported_by_its_type_only(observe):
    def read():
        raise ValueError("Secret-Value")

    assert latest(observe(read)).problem == "It can't be read (ValueError)"


def test_what_to_read_with_is_opened_again_where_that_failed(observe, monkeypatch):
    monkeypatch.setattr(background, "EVERY_S", 60)

    def source():
        if not failures:
            return nullcontext(lambda: 3)
        raise failures.pop()

    failures = [ValueError("Secret-Value")]
    reader = observe(lambda: 1)
    reader._source = source
    assert latest(reader).problem == "It can't be read (ValueError)"
    assert fresh(reader).value == 3


def test_what_to_read_with_is_opened_once_and_closed_after_the_last_use(observe):
    @contextmanager
    def source():
        opened.append(1)
        yield lambda: next(readings)
        closed.append(1)

    opened: list[int] = []
    closed: list[int] = []
    readings = count(1)
    reader = observe(lambda: 1)
    reader._source = source
    wait_until(lambda: (latest(reader).value or 0) > 2, 5, "no readings")
    assert (len(opened), len(closed)) == (1, 0)
    reader._wanted_until = 0
    wait_until(lambda: len(closed) == 1, 5, "it is still open")


def test_reading_ends_when_it_is_unused_and_begins_again(observe, monkeypatch):
    monkeypatch.setattr(background, "IDLE_S", 0.05)
    readings = count(1)
    reader = observe(lambda: next(readings))
    latest(reader)
    wait_until(lambda: reader._thread is None, 5, "it still reads")
    before = reader.last_success.value
    assert latest(reader).value > before
