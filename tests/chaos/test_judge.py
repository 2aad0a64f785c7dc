"""The judge finds each kind of damage in a hand-made run, and none in a sound one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.chaos.judge import DAMAGES, judge
from tests.chaos.observed import Accepted, Item, Logged, Observed, Place, Sample

TOPIC_ID = "MfpguAxWTvabZeKzPKu0Pg"
FENCE = f"_fence:{TOPIC_ID}:0"
PARTITIONS = 9
"""Of so many, patient 1 belongs in partition 0."""


def place(offset: int) -> Place:
    return Place(TOPIC_ID, 0, offset)


def logged(offset: int, patient: str = "1", **fields: object) -> Logged:
    value = json.dumps({"PatientId": patient, **fields}).encode()
    return Logged(place(offset), 1000 + offset, patient.encode(), value)


def accepted(offset: int, patient: str = "1", **fields: object) -> Accepted:
    body = {"PatientId": patient, **fields}
    sent = float(offset)
    return Accepted("client", patient, body, place(offset), sent, sent + 0.5)


def item(fence: int, patient: str = "1", **fields: str) -> Item:
    return {
        "PatientId": {"S": patient},
        **{name: {"S": value} for name, value in fields.items()},
        "UpdatedAt": {"S": f"1970-01-01T00:00:01.{fence:03}+00:00"},
        FENCE: {"N": str(fence)},
        "_incarnation": {"S": f"{TOPIC_ID} table"},
    }


def sample(taken: float, shown: Item | None) -> Sample:
    return Sample("1", taken, shown)


@pytest.fixture
def sound() -> Observed:
    """Three updates of patient 1 and one of patient f, all of them applied."""
    return Observed(
        accepted=[
            accepted(0, FirstName="Jane", LastName="Roe"),
            accepted(1, patient="f", FirstName="Ann"),
            accepted(2, LastName="Doe", IsPregnant=True),
            accepted(3, FirstName=None),
        ],
        log=[
            logged(0, FirstName="Jane", LastName="Roe"),
            logged(1, patient="f", FirstName="Ann"),
            logged(2, LastName="Doe", IsPregnant="True"),
            logged(3, FirstName=None),
        ],
        dead_letters=frozenset(),
        items={
            "1": item(3, LastName="Doe", IsPregnant="True"),
            "f": item(1, patient="f", FirstName="Ann"),
        },
        partitions=PARTITIONS,
        samples=[
            sample(0, None),
            sample(1, item(0, FirstName="Jane", LastName="Roe")),
            sample(2, item(3, LastName="Doe", IsPregnant="True")),
        ],
    )


def with_item(observed: Observed, shown: Item | None) -> Observed:
    """The run with another item of patient 1 at rest."""
    others = {"f": observed.items["f"]}
    return replace(observed, items=others | ({"1": shown} if shown else {}))


def damage(observed: Observed) -> dict[str, int]:
    verdict = judge(observed)
    found = {name: getattr(verdict, name) for name in DAMAGES}
    assert verdict.damaged == any(found.values())
    assert set(verdict.patients) == {name for name, count in found.items() if count}
    return {name: count for name, count in found.items() if count}


def test_a_sound_run_is_clean(sound):
    verdict = judge(sound)
    assert damage(sound) == {}
    assert (verdict.accepted, verdict.records, verdict.samples) == (4, 4, 3)


def test_an_update_that_was_never_applied_is_lost(sound):
    behind = with_item(
        sound, item(2, FirstName="Jane", LastName="Doe", IsPregnant="True")
    )
    assert damage(replace(behind, samples=[])) == {"lost": 1}


def test_a_patient_without_an_item_has_lost_everything(sound):
    assert damage(replace(with_item(sound, None), samples=[])) == {"lost": 3}


def test_an_update_that_a_later_one_passed_over_is_lost(sound):
    # the fence includes offset 2, its fields are not there
    skipped = with_item(sound, item(3, LastName="Roe"))
    assert damage(skipped) == {"lost": 1, "out_of_order": 1}


def test_a_removed_field_that_came_back_is_lost(sound):
    shown = item(3, FirstName="Jane", LastName="Doe", IsPregnant="True")
    assert damage(with_item(sound, shown)) == {"lost": 1, "out_of_order": 1}


def test_an_accepted_update_that_is_not_on_the_topic_is_lost(sound):
    never_written = accepted(9, LastName="Poe")
    observed = replace(sound, accepted=[*sound.accepted, never_written])
    assert damage(observed) == {"lost": 1}


def test_the_same_offset_of_another_incarnation_of_the_topic_is_no_proof(sound):
    elsewhere = replace(
        accepted(3, LastName="Poe"), receipt=Place("another-topic-id", 0, 3)
    )
    observed = replace(sound, accepted=[*sound.accepted, elsewhere])
    assert damage(observed) == {"lost": 1}


def test_a_wrong_timestamp_at_rest_is_out_of_order(sound):
    shown = dict(item(3, LastName="Doe", IsPregnant="True"))
    shown["UpdatedAt"] = {"S": "1970-01-01T00:00:01.002+00:00"}
    assert damage(with_item(sound, shown)) == {"out_of_order": 1}


def test_an_item_that_no_record_explains_is_out_of_order(sound):
    stranger = item(1, patient="3", FirstName="Eve")
    assert damage(replace(sound, items={**sound.items, "3": stranger})) == {
        "out_of_order": 1
    }


def test_an_item_without_a_fence_is_out_of_order(sound):
    shown = dict(item(3, LastName="Doe", IsPregnant="True"))
    del shown[FENCE]
    assert damage(replace(with_item(sound, shown), samples=[]))["out_of_order"] == 1


def test_an_item_that_is_marked_for_another_topic_is_out_of_order(sound):
    shown = dict(item(3, LastName="Doe", IsPregnant="True"))
    assert damage(replace(with_item(sound, shown), samples=[])) == {}
    shown["_incarnation"] = {"S": "another table"}
    assert damage(replace(with_item(sound, shown), samples=[]))["out_of_order"] == 1


def test_an_update_overtaken_by_one_sent_after_its_answer_is_out_of_order(sound):
    first, other, second, third = sound.accepted
    late = replace(first, sent=10.0, answered=11.0)
    assert damage(replace(sound, accepted=[other, second, third, late])) == {
        "out_of_order": 1
    }


def test_updates_in_flight_together_may_land_in_either_order(sound):
    first, other, second, third = sound.accepted
    overlapping = replace(first, sent=2.4, answered=11.0)
    assert damage(replace(sound, accepted=[other, second, third, overlapping])) == {}


def test_records_of_one_patient_on_two_topics_are_out_of_order(sound):
    astray = replace(logged(0, FirstName="Jane"), place=Place("another-topic-id", 0, 0))
    found = damage(replace(sound, log=[*sound.log, astray]))
    assert found["out_of_order"] >= 1


def test_a_sample_that_mixes_old_and_new_is_backwards(sound):
    mixed = item(2, FirstName="Jane", LastName="Roe", IsPregnant="True")
    observed = replace(sound, samples=[sample(0, mixed)])
    assert damage(observed) == {"backwards": 1}


def test_a_fence_that_decreased_is_backwards(sound):
    newer, older = sound.samples[2], sound.samples[1]
    observed = replace(sound, samples=[newer, replace(older, taken=3)])
    assert damage(observed) == {"backwards": 1}


def test_an_item_that_was_gone_for_a_while_is_backwards(sound):
    observed = replace(sound, samples=[sound.samples[1], sample(5, None)])
    assert damage(observed) == {"backwards": 1}


def test_an_item_at_rest_older_than_a_sample_is_backwards(sound):
    # each state is sound in itself: only their order tells
    restored = item(2, FirstName="Jane", LastName="Doe", IsPregnant="True")
    assert damage(with_item(sound, restored)) == {"lost": 1, "backwards": 1}


def test_samples_count_in_the_order_taken(sound):
    assert damage(replace(sound, samples=sound.samples[::-1])) == {}


def test_a_receipt_that_names_another_record_is_wrong(sound):
    first, *others = sound.accepted
    swapped = replace(first, receipt=place(1))
    assert damage(replace(sound, accepted=[swapped, *others])) == {"wrong_receipt": 1}


def test_a_receipt_for_another_record_of_a_lost_update_is_both(sound):
    overwritten = accepted(2, LastName="Poe")
    observed = replace(sound, accepted=[*sound.accepted, overwritten])
    assert damage(observed) == {"wrong_receipt": 1, "lost": 1}


def test_one_receipt_for_two_updates_is_wrong(sound):
    observed = replace(sound, accepted=[*sound.accepted, sound.accepted[3]])
    assert damage(observed) == {"wrong_receipt": 1}


def test_an_accepted_update_on_the_dead_letter_topic_is_damage(sound):
    observed = replace(
        with_item(sound, item(2, FirstName="Jane", LastName="Doe", IsPregnant="True")),
        dead_letters=frozenset({place(3)}),
        samples=[],
    )
    assert damage(observed) == {"dead_lettered": 1}


@pytest.mark.parametrize(
    "poison",
    [
        Logged(place(4), 1004, b"1", b"not JSON"),
        Logged(place(4), 1004, b"1", b"[" * 100_000),
        Logged(place(4), 1004, b"1", b'["1"]'),
        Logged(place(4), 1004, b"1", None),
        Logged(place(4), 1004, None, b'{"PatientId": "1"}'),
        Logged(place(4), 1004, b"2", b'{"PatientId": "1"}'),
        Logged(place(4), 1004, b"1", b'{"PatientId": "1", "LastName": 1.5}'),
        Logged(place(4), 2**63 - 1, b"1", b'{"PatientId": "1"}'),
        Logged(Place(TOPIC_ID, 1, 0), 1004, b"1", b'{"PatientId": "1"}'),
        Logged(place(4), 1004, b"2", b'{"PatientId": "2"}'),
    ],
    ids=["text", "nested", "array", "no value", "no key", "two ids", "type", "time"]
    + ["partition", "partition of another"],
)
def test_a_poison_record_has_to_be_a_dead_letter(sound, poison):
    observed = replace(sound, log=[*sound.log, poison])
    assert damage(observed) == {"vanished": 1}
    dead = replace(observed, dead_letters=frozenset({poison.place}))
    assert damage(dead) == {}


def test_an_update_that_stands_twice_is_doubled(sound):
    again = logged(4, FirstName=None)
    observed = replace(
        with_item(sound, item(4, LastName="Doe", IsPregnant="True")),
        log=[*sound.log, again],
    )
    assert damage(observed) == {"doubled": 1}


def test_other_values_of_the_same_fields_are_another_update(sound):
    log = [logged(0, LastName="Roe"), logged(1, LastName="Doe")]
    assert judge(replace(sound, log=log)).doubled == 0


def test_the_verdict_names_the_patient(sound):
    assert judge(with_item(sound, None)).patients["lost"] == {"1"}


def test_an_accepted_update_survives_its_line():
    update = accepted(7, LastName="Öre", IsPregnant=False)
    assert Accepted.from_line(update.to_line()) == update
