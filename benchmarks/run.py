"""`make bench`: plays the scenes, prints the table, writes RESULTS.md and results.json.

BENCH_SECONDS sets a window's length (5), BENCH_ENGINES=real takes Apache Kafka, and
BENCH_ALL=1 plays the scale scenes too.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import apply, engines, ingest, report, scale
from benchmarks.bench import Bench
from tests.engines.real import EnginesUnavailable

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
"""So that no disk is measured."""


def main() -> None:
    """Play, and leave nothing behind."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as directory,
        engines.running(Path(directory)) as site,
    ):
        bench = Bench(site)
        ingest.scenes(bench)
        apply.scenes(bench)
        if os.environ.get("BENCH_ALL") == "1":
            scale.scenes(bench)
    report.write(bench, (time.monotonic() - started) / 60)
    sys.stdout.write(report.table(bench.book))
    for name, value in report.ratios(bench.book).items():
        sys.stdout.write(f"{name:36} {value:8.2f}\n")


if __name__ == "__main__":
    try:
        main()
    except EnginesUnavailable as missing:
        sys.exit(str(missing))
