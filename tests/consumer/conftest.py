"""A clock that stands still, and worlds that go by it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.consumer.world import World
from tests.fakes import Clock, fake_time


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    fake_time(clock, monkeypatch)
    return clock


@pytest.fixture
def world(clock):
    """Makes a world that owns partition 0 and is then given these turns."""

    def make(*turns: Any) -> World:
        world = World(clock, [*turns])
        world.kafka.assign(0)
        return world

    return make
