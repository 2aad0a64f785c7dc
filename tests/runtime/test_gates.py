"""The gate: who waits for an outside system, and for how long."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from profiles.runtime import gates
from profiles.runtime.gates import Budget, Full, Gate


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


# A budget


def queued(budget: Budget, *amounts: int) -> list[asyncio.Task[None]]:
    return [asyncio.ensure_future(budget.queue_for(each, 5)) for each in amounts]


def test_a_thread_takes_its_share_at_once_or_not_at_all():
    budget = Budget(10)
    with budget.share(6):
        assert not budget.take(5)
        with pytest.raises(Full), budget.share(5):
            pass
        assert budget.take(4)


def test_an_amount_over_the_whole_budget_is_let_through_alone():
    budget = Budget(10)
    assert budget.take(50)
    assert not budget.take(1)


def test_an_event_loop_queues_in_order_and_threads_do_not_overtake():
    async def run() -> list[bool]:
        budget = Budget(10)
        assert budget.take(10)
        large, small = queued(budget, 9, 1)
        await asyncio.sleep(0)
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(budget.take, 1).result(10)
            pool.submit(budget.give_back, 5).result(10)
            await asyncio.sleep(0.01)
            waits = [large.done(), small.done()]
            pool.submit(budget.give_back, 5).result(10)
        await asyncio.gather(large, small)
        return waits

    assert asyncio.run(run()) == [False, False]


def test_a_queue_before_a_stall_is_refused_at_once(monkeypatch):
    async def run() -> None:
        budget = Budget(1)
        assert budget.take(1)
        await budget.queue_for(1, 5)

    monkeypatch.setattr(gates, "FIRST_S", -1.0)
    with pytest.raises(Full):
        asyncio.run(run())


def test_whoever_gives_up_leaves_the_queue():
    async def run() -> bool:
        budget = Budget(1)
        assert budget.take(1)
        with pytest.raises(Full):
            await budget.queue_for(1, 0.01)
        [cancelled] = queued(budget, 1)
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        budget.give_back(1)
        return budget.take(1)

    assert asyncio.run(run())
