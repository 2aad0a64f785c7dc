"""The book: what was measured, by scene and contender, and what it comes to.

In: measures, round by round. Out: medians. Knows no process.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """One window: updates accepted or applied, and what they took."""

    updates: int
    seconds: float
    cpu_s: float
    p50_s: float | None = None
    p99_s: float | None = None
    kafka_s: float | None = None
    """CPU of the broker in the window."""

    @property
    def rate(self) -> float:
        """Updates per second."""
        return self.updates / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per update."""
        return 1e6 * self.cpu_s / max(1, self.updates)

    @property
    def kafka_us(self) -> float | None:
        """Microseconds of the broker's CPU per update."""
        if self.kafka_s is None:
            return None
        return 1e6 * self.kafka_s / max(1, self.updates)


class Book:
    """Measures by (scene, contender); notes are figures of other kinds."""

    def __init__(self) -> None:
        self.measures: dict[tuple[str, str], list[Measure]] = defaultdict(list)
        self.notes: dict[str, float] = {}

    def add(self, scene: str, contender: str, measure: Measure) -> None:
        """Write down one round."""
        self.measures[scene, contender].append(measure)

    def median(
        self, scene: str, contender: str, what: Callable[[Measure], float | None]
    ) -> float:
        """The median over the rounds; NaN where there is nothing."""
        found = map(what, self.measures.get((scene, contender), ()))
        known = [value for value in found if value is not None]
        return statistics.median(known) if known else float("nan")

    def cpu_us(self, scene: str, contender: str) -> float:
        """The median of the CPU per update."""
        return self.median(scene, contender, lambda measure: measure.cpu_us)

    def rate(self, scene: str, contender: str) -> float:
        """The median of the updates per second."""
        return self.median(scene, contender, lambda measure: measure.rate)
