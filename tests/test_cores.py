"""The choice of the core that a web worker keeps to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patientsite.cores import Look, choose

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

DRAWS = range(200)


def chosen(ours: int, others: dict[int, float]) -> set[int]:
    """What may be chosen."""
    return {choose(ours, others) for _ in DRAWS}


def test_a_core_that_others_leave_to_us_is_kept():
    assert chosen(0, {0: 0.0, 1: 0.0}) == {0}


def test_a_core_that_others_use_as_much_as_the_others_is_kept():
    assert chosen(0, {0: 0.9, 1: 0.8, 2: 1.0}) == {0}


def test_a_core_that_others_use_much_more_is_left_for_any_better_one():
    assert chosen(0, {0: 1.0, 1: 0.1, 2: 0.9, 3: 0.2}) > {1, 3}
    assert 2 not in chosen(0, {0: 1.0, 1: 0.1, 2: 0.9, 3: 0.2})


def test_two_that_meet_do_not_always_leave_together():
    alike = {0: 0.5, 1: 0.0}
    together = [choose(0, alike) == choose(0, alike) for _ in DRAWS]
    assert {*together} == {True, False}


def test_a_core_that_is_not_allowed_any_more_is_left():
    assert 1 in chosen(0, {1: 0.1})


def test_nothing_is_chosen_anew_where_nothing_is_known():
    assert chosen(3, {}) == {3}


def test_what_we_use_ourselves_is_not_what_others_use():
    before = Look(10.0, 5.0, {0: 100.0, 1: 200.0})
    now = Look(12.0, 6.5, {0: 101.75, 1: 200.5})
    assert now.others_since(before, ours=0) == {0: 0.125, 1: 0.25}


def test_a_core_that_comes_or_goes_meanwhile_has_no_say():
    before, now = Look(0.0, 0.0, {0: 1.0, 1: 1.0}), Look(1.0, 0.0, {1: 1.0, 2: 9.0})
    assert now.others_since(before, ours=1) == {1: 0.0}


def test_the_kernel_tells_of_each_core_that_is_allowed():
    look = Look.now()
    assert look.used.keys() == os.sched_getaffinity(0)
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    assert all(0 < used_s <= up_s for used_s in look.used.values())


MOVING = """
import os, time
from patientsite import cores

allowed = os.sched_getaffinity(0)
taken = min(allowed)
cores._where_we_are = lambda: taken
cores._used = lambda: {core: time.monotonic() * (core == taken) for core in allowed}
cores.LOOK_S = 0.01
cores.keep_to_one()
seen = set()
while len(seen) < 2:
    now = os.sched_getaffinity(0)
    if len(now) == 1:
        seen |= now
    time.sleep(0.001)
assert taken in seen
"""


@pytest.mark.skipif(os.cpu_count() == 1, reason="it needs two cores")
def test_a_process_leaves_a_core_that_others_take_up():
    subprocess.run([sys.executable, "-c", MOVING], check=True, timeout=30)
