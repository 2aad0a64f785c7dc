"""A broker that flaps makes no update stand twice, and undoes none."""

from __future__ import annotations

import sys

import pytest

from tests.chaos.flap import flap

pytestmark = pytest.mark.real

LANES = 2


def test_no_update_stands_twice_on_the_topic_though_the_broker_flaps(tmp_path):
    tally = flap(tmp_path, 8, LANES)
    assert tally.rounds == 8
    assert tally.accepted
    assert not tally.damaged, tally


def test_with_a_short_delivery_timeout_an_update_stands_twice(tmp_path):
    manage = [sys.executable, "-m", "tests.chaos.mutations.short_delivery"]
    assert flap(tmp_path, 16, LANES, manage).twice
