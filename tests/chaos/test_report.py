"""The report counts what happened, and fails where something was damaged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chaos.judge import DAMAGES, Verdict
from tests.chaos.report import Report


def report(settled: bool = True, **counts: Any) -> Report:
    return Report(
        Verdict(accepted=7, records=8, samples=9, **counts),
        answers={"202": 7, "503": 2, "unknown": 1, "500": 3},
        faults={"kill -9": 4, "suspend": 1, "zombie": 1, "ended by itself": 5},
        settled=settled,
        seed=42,
        seconds=60,
        wall_seconds=90,
    )


def test_a_sound_run_is_told_as_such():
    sound = report()
    assert not sound.damaged
    assert sound.table().splitlines()[-1].split() == ["verdict", "sound"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_fails_the_run(damage):
    damaged = report(True, **{damage: 1})
    assert damaged.damaged
    assert damaged.table().splitlines()[-1].split() == ["verdict", "DAMAGED"]


def test_a_run_that_did_not_settle_fails():
    assert report(settled=False).damaged


def test_the_figures_are_integers_in_a_file(tmp_path):
    report(lost=1, patients={"lost": {"b", "a"}}).write(tmp_path / "chaos.json")
    facts = json.loads((tmp_path / "chaos.json").read_text())
    assert facts.pop("patients") == {"lost": ["a", "b"]}
    assert all(type(figure) is int for figure in facts.values())
    assert facts["lost"] == 1
    assert (facts["seed"], facts["accepted"], facts["kills"]) == (42, 7, 4)
    assert (facts["suspensions"], facts["faults"]) == (2, 6)
    assert (facts["refused"], facts["other_answers"]) == (2, 3)
