"""One run of the benchmark: where it plays, for how long, and what it wrote down."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import engines
from benchmarks.book import Book, Measure
from benchmarks.contenders import Site

SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
ROUNDS = 3
TURNS = 3
"""In a round, of the project and the limit that it is held against: the two are close,
and a machine changes by more than that within a minute."""


@dataclass
class Bench:
    """What every scene is handed."""

    site: Site
    seconds: float = SECONDS
    rounds: int = ROUNDS
    book: Book = field(default_factory=Book)

    @property
    def directory(self) -> Path:
        """A folder that is gone after the run."""
        return self.site.directory

    def provision(self, name: str, partitions: int = engines.PARTITIONS) -> Site:
        """A topic and a table of this name."""
        return engines.provision(self.site, name, partitions)

    def note(self, scene: str, contender: str, measure: Measure) -> None:
        """Write a round down, and say it, for whoever waits."""
        self.book.add(scene, contender, measure)
        sys.stderr.write(
            f"{scene:20} {contender:28} {measure.cpu_us:8.1f} µs "
            f"{measure.rate:10.0f}/s {1e3 * (measure.p99_s or 0):8.1f} ms\n"
        )

    def note_raw(
        self, scene: str, contender: str, printed: Mapping[str, float]
    ) -> None:
        """Write down what a raw loop measured of itself."""
        measure = Measure(
            int(printed["updates"]),
            printed["seconds"],
            printed["cpu_s"],
            printed.get("p50_s"),
        )
        self.note(scene, contender, measure)
