"""The cursor of the list: to the next page, back, and through a reload."""

from __future__ import annotations

import pytest

from profiles.pages.cursor import MOST_CHARACTERS, MOST_KEYS, BadCursor, Cursor


def test_the_first_page_has_an_empty_cursor_and_no_page_before_it():
    first = Cursor()
    assert (first.after, first.number, first.previous) == (None, 1, None)
    assert first.encode() == ""
    assert Cursor.decode("") == first


def test_the_pages_lead_back_the_way_they_came():
    second = Cursor().next("a")
    third = second.next("b")
    assert (third.after, third.number) == ("b", 3)
    assert third.previous == second
    assert second.previous == Cursor()


@pytest.mark.parametrize("key", ["a/b", "\N{GRINNING FACE}", "'\"&", "x" * 128])
def test_a_cursor_survives_a_reload(key):
    cursor = Cursor().next(key).next("z")
    assert Cursor.decode(cursor.encode()) == cursor


@pytest.mark.parametrize("key", ["{:05}", "{:0128}"])
def test_a_long_cursor_drops_its_oldest_keys_and_still_numbers_the_pages(key):
    cursor = Cursor()
    for number in range(200):
        cursor = cursor.next(key.format(number))
    assert cursor.number == 201
    assert cursor.after == key.format(199)
    assert len(cursor.keys) <= MOST_KEYS
    assert len(cursor.encode()) < 2 * MOST_CHARACTERS
    while cursor.previous is not None:
        assert cursor.previous.number == cursor.number - 1
        cursor = cursor.previous
    assert cursor.number > 1


@pytest.mark.parametrize("text", ["x", "a:b:c", "é", ":::", "\x00"])
def test_text_that_is_no_cursor_is_refused(text):
    with pytest.raises(BadCursor, match="Invalid cursor"):
        Cursor.decode(text)


def test_a_changed_cursor_is_refused(settings):
    text = Cursor().next("a").encode()
    with pytest.raises(BadCursor):
        Cursor.decode(text[:-1] + ("a" if text[-1] != "a" else "b"))
    settings.SECRET_KEY = "another" * 10
    with pytest.raises(BadCursor):
        Cursor.decode(text)
