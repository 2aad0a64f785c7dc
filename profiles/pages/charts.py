"""The chart: samples as lines on a grid. Plain Python: it calls nobody.

In: counts over time. Out: what an SVG of a fixed size shows: the lines' points, the
grid and its labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 720, 200
LATEST_S = 10.0
"""What "now" is: over less, a rate jumps with every batch."""

Count = tuple[float, int]
"""When, in seconds, and how many until then."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: the points of a polyline, and the rates a second that people read."""

    points: str
    latest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The lines, and the height of the grid's marks by their labels."""

    lines: Sequence[Line]
    marks: Sequence[tuple[float, str]]


def chart(series: Sequence[Sequence[Count]], seconds: float) -> Chart:
    """The rate of each series over the last so many seconds, on one scale."""
    rates = [[*_rates(counts)] for counts in series]
    top = _round_up(max((rate for line in rates for _, rate in line), default=0))
    latest = max((at for line in rates for at, _ in line), default=0.0)
    lines = [
        Line(
            " ".join(
                f"{WIDTH * (1 - (latest - at) / seconds):.1f},{_height(rate, top):.1f}"
                for at, rate in line
            ),
            _latest(counts),
            max((rate for _, rate in line), default=0.0),
        )
        for line, counts in zip(rates, series, strict=True)
    ]
    marks = [(_height(top * part, top), f"{top * part:g}") for part in (0, 0.5, 1)]
    return Chart(lines, marks)


def _rates(counts: Sequence[Count]) -> Iterator[Count | tuple[float, float]]:
    for (start, before), (end, after) in pairwise(counts):
        yield end, max(0.0, (after - before) / (end - start))


def _latest(counts: Sequence[Count]) -> float:
    """The rate over the last moments."""
    if len(counts) < 2:
        return 0.0
    end, last = counts[-1]
    start, first = next(c for c in counts if c[0] >= end - LATEST_S)
    return max(0.0, (last - first) / (end - start)) if end > start else 0.0


def _height(rate: float, top: float) -> float:
    return HEIGHT * (1 - rate / top)


def _round_up(rate: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ...: a scale that people read and that rests."""
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if rate <= factor * step:
                return factor * step
        step *= 10
