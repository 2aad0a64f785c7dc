"""The window: as many calls under way as the table answers without a queue."""

from __future__ import annotations

from profiles.dynamodb.window import LEAST, MOST, Window


def after(seconds, calls, window=None):
    window = window or Window()
    for _ in range(calls):
        window.answered(seconds)
    return window


def test_it_grows_while_calls_take_no_longer_than_the_fastest():
    assert after(0.01, 0).size == LEAST
    assert LEAST < after(0.01, 100).size < MOST
    assert after(0.01, 1000).size == MOST


def test_a_far_table_has_as_large_a_window_as_a_near_one():
    assert after(0.2, 100).size == after(0.002, 100).size


def test_it_shrinks_while_calls_wait_for_each_other():
    window = after(0.01, 1000)
    assert LEAST < after(0.05, 20, window).size < MOST
    for _ in range(200):
        assert after(0.05, 1, window).size >= LEAST
    assert window.size == LEAST


def test_a_table_that_has_become_slower_for_good_is_not_taken_for_a_full_one():
    window = after(0.01, 1000)
    assert after(0.05, 2000, window).size == MOST


def test_trouble_halves_it_down_to_one_call_and_answers_let_it_grow_again():
    window = after(0.01, 1000)
    window.halve()
    assert window.size == MOST // 2
    for _ in range(9):
        window.halve()
    assert window.size == 1
    assert after(0.05, 20, window).size == 1
    assert after(0.01, 1000, window).size == MOST
