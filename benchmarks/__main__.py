"""`make bench`: plays the parts, prints their tables, writes RESULTS.md and results.json.

    python -m benchmarks [PART ...] [--base COMMIT] [--rounds 3]

All parts but `scale` are played where none is named. BENCH_SECONDS is the length of one
window (2). The project is compared with its own commit COMMIT in the part `ceiling`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import apply, ceiling, engines, ingest, outage, page, report, scale
from benchmarks.bench import Bench
from tests.engines.real import EnginesUnavailable

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
"""So that no disk is measured."""

PARTS: dict[str, Callable[[Bench], None]] = {
    "single": ingest.single,
    "bulk": ingest.bulk,
    "tansu": ingest.tansu,
    "apply": apply.scenes,
    "ceiling": ceiling.scenes,
    "outage": outage.scene,
    "page": page.scene,
    "scale": scale.scenes,
}
USUAL = [part for part in PARTS if part != "scale"]
BASE = "be008e4"
"""The last commit before the front on an event loop and the wire of our own."""


def main() -> None:
    """Play, and leave nothing behind."""
    options = _options()
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as directory,
        engines.running(Path(directory)) as (apache, tansu),
    ):
        for part in options.parts or USUAL:
            started = time.monotonic()
            bench = Bench(apache, tansu, options.seconds, options.rounds, options.base)
            PARTS[part](bench)
            found = report.write(part, bench, (time.monotonic() - started) / 60)
            sys.stdout.write(f"\n{part}\n\n{report.table(bench.book)}\n")
            for name, value in found.items():
                sys.stdout.write(f"{name:36} {value:8.3f}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    options.seconds = float(os.environ.get("BENCH_SECONDS", "2"))
    return options


if __name__ == "__main__":
    try:
        main()
    except EnginesUnavailable as missing:
        sys.exit(str(missing))
