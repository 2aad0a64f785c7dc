"""Merging: the updates of one patient and source fold into one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from profiles.core.updates import MergedUpdate, Receipt, Source, merge
from tests.fakes import SOURCE, update_at

FIELDS = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.sampled_from("xyz"), max_size=3
)


def patch(profile, fields):
    """RFC 7396, for one level: null removes, absent keeps."""
    patched = {**profile, **fields}
    return {name: value for name, value in patched.items() if value is not None}


def test_the_last_value_of_each_field_wins():
    (merged,) = merge([update_at(4, a="old", b="kept"), update_at(7, a="new")])
    assert merged == update_at(7, a="new", b="kept")


def test_a_removal_survives_the_merge():
    (merged,) = merge([update_at(0, a="x"), update_at(1, a=None)])
    assert merged.fields == {"a": None}


def test_a_field_set_after_its_removal_is_set():
    (merged,) = merge([update_at(0, a=None), update_at(1, a="x")])
    assert merged.fields == {"a": "x"}


def test_patients_are_merged_apart_in_the_order_of_their_first_update():
    updates = [update_at(0, "b"), update_at(1, "a"), update_at(2, "b")]
    assert [(u.patient_id, u.offset) for u in merge(updates)] == [("b", 2), ("a", 1)]


def test_sources_are_merged_apart():
    other = Source("topic-2", SOURCE.partition)
    updates = [update_at(9, a="x"), MergedUpdate("1", {"a": "y"}, other, 0, 0)]
    assert merge(updates) == updates


@given(st.lists(FIELDS, min_size=1), FIELDS)
def test_a_merged_update_does_to_any_profile_what_its_updates_do_in_order(
    posted, profile
):
    step_by_step = profile
    for fields in posted:
        step_by_step = patch(step_by_step, fields)
    (merged,) = merge(update_at(i, **fields) for i, fields in enumerate(posted))
    assert patch(patch(profile, {}), merged.fields) == patch(step_by_step, {})
    assert merged.offset == len(posted) - 1


@given(st.lists(FIELDS, min_size=1), st.data())
def test_merging_in_parts_is_merging_at_once(posted, data):
    updates = [update_at(i, **fields) for i, fields in enumerate(posted)]
    cut = data.draw(st.integers(0, len(updates)))
    assert merge([*merge(updates[:cut]), *merge(updates[cut:])]) == merge(updates)


def test_no_repr_shows_a_value():
    assert "Secret" not in repr([update_at(0, a="Secret")])


def test_a_receipt_reads_as_topic_id_partition_and_offset():
    assert str(Receipt(Source("T", 3), 42)) == "T.3.42"
