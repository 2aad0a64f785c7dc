"""The chart: rates over time as lines on a grid. Plain Python: it calls nobody.

In: counts over time. Out: what an SVG of a fixed size shows: the points of each line, and
the grid's labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 720, 200
LATEST_S = 10.0
"""The latest rate is the average of so long: of less, it jumps with every batch."""

Count = tuple[float, int]
"""A moment in seconds, and how many there were up to it."""
Rate = tuple[float, float]
"""A moment in seconds, and how many a second there were since the count before."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: the points of an SVG polyline, and two of its rates for the text."""

    points: str
    latest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The lines, and the grid's marks: the height and the label of each."""

    lines: Sequence[Line]
    marks: Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a moment and a rate are on the chart: it ends at `end_s` and at `top`."""

    end_s: float
    seconds: float
    top: float

    def x(self, at_s: float) -> float:
        return WIDTH * (1 - (self.end_s - at_s) / self.seconds)

    def y(self, rate: float) -> float:
        return HEIGHT * (1 - rate / self.top)

    def points(self, rates: Sequence[Rate]) -> str:
        return " ".join(
            f"{self.x(at_s):.1f},{self.y(rate):.1f}" for at_s, rate in rates
        )

    def marks(self) -> list[tuple[float, str]]:
        rates = (0, self.top / 2, self.top)
        return [(self.y(rate), f"{rate:g}") for rate in rates]


def chart(series: Sequence[Sequence[Count]], seconds: float) -> Chart:
    """The rate of each series over the last `seconds`, all on one grid."""
    rates = [_rates(counts) for counts in series]
    grid = _grid([rate for each in rates for rate in each], seconds)
    lines = [
        Line(grid.points(each), _latest(counts), _highest(each))
        for each, counts in zip(rates, series, strict=True)
    ]
    return Chart(lines, grid.marks())


def _rates(counts: Sequence[Count]) -> list[Rate]:
    """The rate between each two counts; offsets that were set back are no rate."""
    return [
        (end_s, max(0.0, (after - before) / (end_s - start_s)))
        for (start_s, before), (end_s, after) in pairwise(counts)
    ]


def _grid(rates: Sequence[Rate], seconds: float) -> Grid:
    """The grid that all the rates fit on."""
    end_s = max((at_s for at_s, _ in rates), default=0.0)
    return Grid(end_s, seconds, _round_up(_highest(rates)))


def _highest(rates: Sequence[Rate]) -> float:
    return max((rate for _, rate in rates), default=0.0)


def _latest(counts: Sequence[Count]) -> float:
    """The average rate of the last LATEST_S."""
    recent = [count for count in counts if count[0] >= counts[-1][0] - LATEST_S]
    if len(recent) < 2:
        return 0.0
    [(_, rate)] = _rates([recent[0], recent[-1]])
    return rate


def _round_up(rate: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ...: a scale that is easy to read, and rests."""
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if rate <= factor * step:
                return factor * step
        step *= 10
