"""The gate: who waits for an outside system, and for how long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from profiles.runtime import gates
from profiles.runtime.gates import Full, Gate


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(gates, "STALLED_S", 0.01)
    monkeypatch.setattr(gates, "FIRST_S", 60.0)


def pass_through(gate: Gate) -> bool:
    with gate.passage() as moved:
        moved()
    return True


def hold(gate: Gate, inside: Event, over: Event) -> None:
    """Take a place until it is over; nothing moves meanwhile."""
    with gate.passage():
        inside.set()
        over.wait(10)


def test_whoever_comes_while_a_first_answer_is_awaited_queues_for_it():
    gate, inside, over = Gate(1), Event(), Event()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(hold, gate, inside, over)
        inside.wait(10)
        queued = pool.submit(pass_through, gate)
        over.wait(5 * gates.STALLED_S)  # a stall, were it not the first
        over.set()
        assert queued.result(10)


def assert_the_queue_is_refused(gate: Gate) -> None:
    inside, over = Event(), Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold, gate, inside, over)
        inside.wait(10)
        with pytest.raises(Full):
            pass_through(gate)
        over.set()


def test_later_a_stall_refuses_the_queue():
    gate = Gate(1)
    pass_through(gate)
    assert_the_queue_is_refused(gate)


def test_a_first_answer_that_does_not_come_refuses_the_queue_too(monkeypatch):
    monkeypatch.setattr(gates, "FIRST_S", 0.02)
    assert_the_queue_is_refused(Gate(1))
