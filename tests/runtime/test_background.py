"""Background reading: fresh while somebody looks, and over when nobody does."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from itertools import count
from threading import Event

from profiles.runtime import background
from tests.engines.process import wait_until


class Away(Exception):
    """What is read is away: the reason is for whoever looks."""


def look(observer, patience_s=5):
    return observer.look(time.monotonic() + patience_s)


def test_the_first_look_waits_for_the_first_reading(observe):
    assert look(observe(lambda: 1)).value == 1


def test_a_look_goes_on_without_a_reading_that_takes_too_long(observe):
    release = Event()
    observer = observe(release.wait)
    seen = look(observer, patience_s=0.01)
    assert (seen.value, seen.problem) == (None, "It has not answered yet")
    release.set()


def test_what_can_not_be_read_is_told_and_read_again(observe):
    answers = [Away("it does not answer")]

    def read():
        if answers:
            raise answers.pop()
        return 2

    observer = observe(read, Away)
    assert look(observer).problem == "it does not answer"
    wait_until(lambda: look(observer).value == 2, 5, "no reading")


def test_whatever_goes_wrong_is_told_by_its_kind_only(observe):
    def read():
        raise ValueError("Secret-Value")

    assert look(observe(read)).problem == "It can't be read (ValueError)"


def test_what_to_read_with_is_made_again_where_it_can_not_be_made(observe):
    def reading():
        if not failures:
            return nullcontext(lambda: 3)
        raise failures.pop()

    failures = [ValueError("Secret-Value")]
    observer = observe(lambda: 1)
    observer._reading = reading
    assert look(observer).problem == "It can't be read (ValueError)"
    wait_until(lambda: look(observer).value == 3, 5, "no reading")


def test_what_to_read_with_is_opened_once_and_closed_when_nobody_looks(
    observe, monkeypatch
):
    @contextmanager
    def reading():
        opened.append(1)
        yield lambda: next(readings)
        closed.append(1)

    opened: list[int] = []
    closed: list[int] = []
    readings = count(1)
    observer = observe(lambda: 1)
    observer._reading = reading
    wait_until(lambda: (look(observer).value or 0) > 2, 5, "no readings")
    assert (len(opened), len(closed)) == (1, 0)
    observer._wanted_until = 0
    wait_until(lambda: len(closed) == 1, 5, "it is still open")


def test_reading_ends_when_nobody_looks_and_begins_again(observe, monkeypatch):
    monkeypatch.setattr(background, "IDLE_S", 0.05)
    observer = observe(lambda: 1)
    look(observer)
    wait_until(lambda: observer._thread is None, 5, "it still reads")
    assert look(observer).value == 1
