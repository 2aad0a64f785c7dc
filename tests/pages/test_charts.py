"""The chart: what the lines say is what was counted."""

from __future__ import annotations

import pytest

from profiles.pages.charts import HEIGHT, WIDTH, chart


def points(line):
    return [tuple(map(float, point.split(","))) for point in line.points.split()]


def test_a_line_shows_the_rate_between_samples():
    (line,) = chart([[(0.0, 0), (2.0, 20), (4.0, 20)]], seconds=4).lines
    assert points(line) == [(WIDTH / 2, 0), (WIDTH, HEIGHT)]
    assert line.highest == 10


def test_what_is_told_as_now_is_the_rate_of_the_last_ten_seconds():
    counts = [(0.0, 0), (100.0, 1000), (104.0, 1000), (112.0, 1040)]
    (line,) = chart([counts], seconds=300).lines
    assert line.latest == 5


def test_both_lines_are_on_one_scale():
    first, second = chart([[(0.0, 0), (1.0, 100)], [(0.0, 0), (1.0, 50)]], 10).lines
    assert points(first)[0][1] == 0
    assert points(second)[0][1] == HEIGHT / 2


@pytest.mark.parametrize("counts", [[], [(0.0, 5)]])
def test_without_two_samples_there_is_a_grid_and_no_line(counts):
    drawn = chart([counts], 300)
    assert drawn.lines[0].points == ""
    assert drawn.lines[0].latest == 0
    assert [text for _, text in drawn.marks] == ["0", "0.5", "1"]


def test_offsets_that_were_set_back_are_no_negative_rate():
    (line,) = chart([[(0.0, 10), (2.0, 4)]], 300).lines
    assert (line.latest, line.highest) == (0, 0)


@pytest.mark.parametrize(
    ("rate", "top"), [(0, "1"), (1, "1"), (1.5, "2"), (3, "5"), (70, "100")]
)
def test_the_scale_ends_at_a_round_number(rate, top):
    drawn = chart([[(0.0, 0), (10.0, int(10 * rate))]], 300)
    assert drawn.marks[-1] == (0, top)
