"""Throttles: how often one client may ask."""

from __future__ import annotations

import pytest

from profiles.access import throttles
from profiles.access.throttles import Throttle
from tests.fakes import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throttles, "time", clock)
    return clock


def let_in(throttle: Throttle, attempts: int, client: str = "a") -> int:
    return sum(throttle.wait_s(client) == 0 for _ in range(attempts))


def test_a_burst_of_the_whole_rate_is_let_in_and_no_more(clock):
    assert let_in(Throttle(5, 1.0), 20) == 5


def test_the_wait_is_long_enough_and_no_longer(clock):
    throttle = Throttle(5, 1.0)
    let_in(throttle, 5)
    wait_s = throttle.wait_s("a")
    assert wait_s == pytest.approx(0.2)
    clock.now += wait_s / 2
    assert throttle.wait_s("a") > 0
    clock.now += wait_s / 2 + 1e-6
    assert throttle.wait_s("a") == 0


def test_over_time_the_rate_is_kept_however_often_one_asks(clock):
    throttle, passed = Throttle(10, 1.0), 0
    for _ in range(1000):
        passed += let_in(throttle, 3)
        clock.now += 0.01
    assert 100 <= passed <= 110


def test_clients_do_not_take_from_each_other(clock):
    throttle = Throttle(2, 60.0)
    assert let_in(throttle, 5, "a") == 2
    assert let_in(throttle, 5, "b") == 2


def test_it_remembers_a_bounded_number_of_clients_those_that_ask(clock, monkeypatch):
    monkeypatch.setattr(throttles, "REMEMBERED", 3)
    throttle = Throttle(1, 60.0)
    assert let_in(throttle, 1, "busy") == 1
    for number in range(100):
        throttle.wait_s(str(number))
        assert let_in(throttle, 1, "busy") == 0
    assert len(throttle._whole_at) == 3
