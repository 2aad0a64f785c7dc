"""One part of a run: on which engines it plays, for how long, and what it measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.book import Book, Measure
from benchmarks.contenders import Site

TURNS = 2
"""In a round, of the project and the limit that it is compared with: the two are close,
and a machine changes by more than that within a minute."""


@dataclass
class Bench:
    """What every part is handed."""

    apache: Site
    tansu: Site
    seconds: float
    rounds: int
    base: str
    """The commit that the project is compared with."""
    book: Book = field(default_factory=Book)

    @property
    def directory(self) -> Path:
        """A folder that is removed after the run."""
        return self.apache.directory

    def note(self, scene: str, contender: str, measure: Measure) -> None:
        """Record a round, and print it as progress."""
        self.book.add(scene, contender, measure)
        sys.stderr.write(
            f"{scene:22} {contender:28} {measure.cpu_us:8.1f} µs "
            f"{measure.kafka_us or 0:8.1f} µs of Kafka {measure.rate:10,.0f}/s "
            f"{1e3 * (measure.p50_s or 0):8.2f} {1e3 * (measure.p99_s or 0):8.2f} ms\n"
        )

    def note_raw(
        self, scene: str, contender: str, printed: Mapping[str, float]
    ) -> None:
        """Record what a raw loop measured of itself."""
        measure = Measure(
            int(printed["updates"]),
            printed["seconds"],
            printed["cpu_s"],
            printed.get("p50_s"),
        )
        self.note(scene, contender, measure)

    def figure(self, name: str, value: float) -> None:
        """Record a figure of another kind."""
        self.book.notes[name] = value
        sys.stderr.write(f"{name}: {value:.4g}\n")
