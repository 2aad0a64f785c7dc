"""Positions in the list: onwards, back, and through a reload."""

from __future__ import annotations

import pytest

from profiles.pages.cursor import MOST_CHARACTERS, MOST_KEYS, BadCursor, Position


def test_the_first_page_has_no_cursor_and_nothing_before_it():
    first = Position()
    assert (first.after, first.number, first.previous) == (None, 1, None)
    assert first.cursor() == ""
    assert Position.of("") == first


def test_the_way_onwards_is_the_way_back():
    second = Position().next("a")
    third = second.next("b")
    assert (third.after, third.number) == ("b", 3)
    assert third.previous == second
    assert second.previous == Position()


@pytest.mark.parametrize("key", ["a/b", "\N{GRINNING FACE}", "'\"&", "x" * 128])
def test_a_cursor_survives_a_reload(key):
    position = Position().next(key).next("z")
    assert Position.of(position.cursor()) == position


@pytest.mark.parametrize("key", ["{:05}", "{:0128}"])
def test_a_long_way_is_forgotten_from_its_far_end_but_counted(key):
    position = Position()
    for number in range(200):
        position = position.next(key.format(number))
    assert position.number == 201
    assert position.after == key.format(199)
    assert len(position.keys) <= MOST_KEYS
    assert len(position.cursor()) < 2 * MOST_CHARACTERS
    while position.previous is not None:
        assert position.previous.number == position.number - 1
        position = position.previous
    assert position.number > 1


@pytest.mark.parametrize("cursor", ["x", "a:b:c", "é", ":::", "\x00"])
def test_what_is_not_ours_is_refused(cursor):
    with pytest.raises(BadCursor):
        Position.of(cursor)


def test_a_changed_cursor_is_refused(settings):
    cursor = Position().next("a").cursor()
    with pytest.raises(BadCursor):
        Position.of(cursor[:-1] + ("a" if cursor[-1] != "a" else "b"))
    settings.SECRET_KEY = "another" * 10
    with pytest.raises(BadCursor):
        Position.of(cursor)
