"""The item and its fence: whatever is written again or late, nothing goes backwards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.core import items
from profiles.core.updates import MergedUpdate, Receipt, Source, merge
from profiles.dynamodb.writer import TableWriter
from tests.fakes import NOW_MS, OURS, SOURCE, FakeDynamoDB, update_at

FIELDS = st.dictionaries(
    st.sampled_from(["FirstName", "LastName", "Sex"]),
    st.none() | st.sampled_from(["x", "y", "z"]),
    max_size=3,
)
OTHER_SOURCE = Source("topic-2", 0)


@st.composite
def logs(draw, max_size=12):
    """The updates of two patients in one source, in log order."""
    posted = draw(
        st.lists(
            st.tuples(st.sampled_from("12"), FIELDS), min_size=1, max_size=max_size
        )
    )
    return [update_at(i, who, **fields) for i, (who, fields) in enumerate(posted)]


def fold(log):
    """What the table has to hold: each patient's updates, one after the other."""
    profiles: dict[str, dict[str, str]] = {}
    for update in log:
        profile = profiles.setdefault(
            update.patient_id, {"PatientId": update.patient_id}
        )
        for name, value in update.fields.items():
            profile.pop(name, None)
            if value is not None:
                profile[name] = value
        moment = update.timestamp_ms - NOW_MS
        profile["UpdatedAt"] = f"2023-11-14T22:13:20.{moment:03}+00:00"
    return profiles


def write(client, updates):
    TableWriter(client, "t").apply(updates, OURS)


def shown(client):
    """What the fake table's items show."""
    return {key: items.profile(item) for key, item in client.items.items()}


def batches(log, draw):
    """The log, cut anywhere."""
    cuts = sorted(draw(st.sets(st.integers(0, len(log)))))
    edges = zip([0, *cuts], [*cuts, len(log)], strict=True)
    return [merge(log[start:end]) for start, end in edges]


@given(logs(), st.data())
def test_any_batching_gives_the_fold_of_the_updates(log, data):
    client = FakeDynamoDB()
    for batch in batches(log, data.draw):
        write(client, batch)
    assert shown(client) == fold(log)


@given(logs(), st.data())
def test_redelivery_from_anywhere_and_late_writes_change_nothing(log, data):
    """Consumers that lost their partition repeat any batch they have read."""
    client = FakeDynamoDB()
    done = []
    for batch in batches(log, data.draw):
        write(client, batch)
        done.append(batch)
        for late in data.draw(st.lists(st.sampled_from(done), max_size=3)):
            write(client, late)
    assert shown(client) == fold(log)


@given(logs(), st.data())
def test_a_replay_from_the_start_in_other_batches_changes_nothing(log, data):
    client = FakeDynamoDB()
    for batch in batches(log, data.draw) + batches(log, data.draw):
        write(client, batch)
    assert shown(client) == fold(log)


@given(logs(), logs())
def test_a_recreated_topic_is_applied_on_top_though_it_counts_from_zero(old, new):
    client = FakeDynamoDB()
    write(client, merge(old))
    recreated = [
        MergedUpdate(u.patient_id, u.fields, OTHER_SOURCE, u.offset, u.timestamp_ms)
        for u in new
    ]
    write(client, merge(recreated))
    assert shown(client) == fold([*old, *new])


@pytest.mark.parametrize("seed", range(4))
def test_the_same_holds_on_moto(seed, dynamodb, settings):
    log = [
        update_at(0, "1", FirstName="John", Sex="Female"),
        update_at(1, "2", FirstName="Ann"),
        update_at(2, "1", Sex=None, LastName="Doe"),
        update_at(3, "1", LastName="Roe"),
        update_at(4, "2", FirstName=None),
    ]
    table = TableWriter(dynamodb, settings.DYNAMODB_TABLE)
    for start, end in [(0, seed), (seed, 5), (0, 2), (1, 4), (0, 5)]:
        for update in merge(log[start:end]):  # one by one: moto knows no PartiQL
            table.apply([update], OURS)
    found = dynamodb.scan(TableName=settings.DYNAMODB_TABLE)["Items"]
    assert {item["PatientId"]["S"]: items.profile(item) for item in found} == fold(log)


def test_the_fence_is_a_top_level_number_named_by_topic_id_and_partition():
    client = FakeDynamoDB()
    write(client, [update_at(7)])
    assert client.items["1"]["_fence:topic-1:0"] == {"N": "7"}


def test_each_source_has_a_fence_of_its_own():
    client = FakeDynamoDB()
    other = MergedUpdate("1", {}, OTHER_SOURCE, 2, NOW_MS)
    write(client, [update_at(7)])
    write(client, [other])
    assert [*items.fence_receipts(client.items["1"])] == [
        Receipt(SOURCE, 7),
        Receipt(OTHER_SOURCE, 2),
    ]


DAMAGED: dict[str, Any] = {
    "a field in bytes": {"Phone": {"B": b"\xff"}},
    "a field that is a number": {"Phone": {"N": "1"}},
    "a field that is a list": {"Phone": {"L": [{"S": "x"}]}},
    "UpdatedAt is null": {"UpdatedAt": {"NULL": True}},
    "a fence in bytes": {"_fence:topic-1:0": {"B": b"\xff"}},
    "a fence that is text": {"_fence:topic-1:0": {"S": "7"}},
    "a fence with a fraction": {"_fence:topic-1:0": {"N": "7.5"}},
    "a fence below zero": {"_fence:topic-1:0": {"N": "-7"}},
    "a huge fence": {"_fence:topic-1:0": {"N": "9" * 38}},
    "a fence with an exponent": {"_fence:topic-1:0": {"N": "1E+125"}},
    "a fence of no partition": {"_fence:topic-1:x": {"N": "7"}},
    "a fence of nothing": {"_fence:": {"N": "7"}},
    "a mark in bytes": {"_incarnation": {"B": b"\xff"}},
    "a set of ours": {"_new": {"SS": ["x"]}},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_item_can_be_read(damage):
    client = FakeDynamoDB()
    write(client, [update_at(7, Phone="1")])
    item = {**client.items["1"], **damage}
    assert items.profile(item)["PatientId"] == "1"
    assert isinstance(items.etag(item), str)
    assert isinstance(items.includes(item, Receipt(SOURCE, 7)), bool)
    assert len([*items.fence_receipts(item)]) in (1, 2)
    assert items.held_by(item) in (OURS, None)


@pytest.mark.parametrize("value", [{"B": b"1"}, {"N": "1"}, {"NULL": True}], ids=repr)
def test_a_field_that_is_not_text_is_shown_as_unreadable(value):
    item = {"PatientId": {"S": "1"}, "Phone": value, "_x": value}
    assert items.profile(item) == {"PatientId": "1", "Phone": "unreadable"}


@pytest.mark.parametrize("fence", [{"S": "7"}, {"B": b"7"}, {"N": "7.5"}, {"N": "-7"}])
def test_a_fence_that_is_no_offset_names_no_receipt_and_includes_nothing(fence):
    item = {"PatientId": {"S": "1"}, items.fence_name(SOURCE): fence}
    assert [*items.fence_receipts(item)] == [None]
    assert not items.includes(item, Receipt(SOURCE, 0))
    assert not items.has_sound_fence(item, SOURCE)


def test_a_patient_id_alone_is_an_update_too():
    client = FakeDynamoDB()
    write(client, [update_at(0)])
    assert shown(client)["1"].keys() == {"PatientId", "UpdatedAt"}


def test_a_profile_shows_neither_fence_nor_mark():
    client = FakeDynamoDB()
    write(client, [update_at(7)])
    assert shown(client)["1"].keys() == {"PatientId", "UpdatedAt"}
    assert client.items["1"]["_incarnation"] == {"S": "topic-1 table-1"}


def test_the_version_changes_with_the_fence_and_with_the_mark():
    client = FakeDynamoDB()
    write(client, [update_at(7)])
    item = client.items["1"]
    changed = [
        {**item, items.fence_name(SOURCE): {"N": "8"}},
        {**item, items.MARK: {"S": "topic-1 table-2"}},
    ]
    assert len({items.etag(each) for each in [item, *changed]}) == 3
    assert items.etag({**item, "Sex": {"S": "Other"}}) == items.etag(item)


def test_field_names_and_values_never_stand_in_the_expression():
    call = items.upsert("t", update_at(0, Name="Secret", Sex=None), OURS)
    assert call["UpdateExpression"] == (
        "SET #m = :m, #f = :f, #0 = :0, #1 = :1 REMOVE #2"
    )
