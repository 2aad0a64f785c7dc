"""The report: the book as one table for people, and as numbers for machines.

In: a Book. Out: text, RESULTS.md and results.json. A ratio is always a peer's figure
over ours or ours over a peer's, so that more is better for us.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import apply, engines, ingest
from benchmarks.bench import Bench
from benchmarks.book import Book

HERE = Path(__file__).parent
OURS = "project"
PACKAGES = ("django", "djangorestframework", "granian", "confluent-kafka", "boto3")
ADDED = "<!-- What follows is written by hand. -->"


def ratios(book: Book) -> dict[str, float]:
    """The headline figures."""

    def cpu(scene: str, peer: str) -> float:
        return book.cpu_us(scene, peer) / book.cpu_us(scene, OURS)

    def rate(scene: str, peer: str) -> float:
        return book.rate(scene, OURS) / book.rate(scene, peer)

    def p50(scene: str, peer: str) -> float:
        peers = book.median(scene, peer, lambda measure: measure.p50_s)
        return peers / book.median(scene, OURS, lambda measure: measure.p50_s)

    def p99(scene: str, peer: str) -> float:
        peers = book.median(scene, peer, lambda measure: measure.p99_s)
        return peers / book.median(scene, OURS, lambda measure: measure.p99_s)

    existing, new = "apply existing", "apply new"
    return {
        "ingest_single_vs_fastapi": cpu("single", ingest.FASTAPI),
        "ingest_single_vs_naive": cpu("single", ingest.NAIVE),
        "ingest_bulk_vs_fastapi_bulk": cpu("bulk", ingest.FASTAPI),
        "ingest_bulk_vs_raw": rate("bulk", ingest.RAW),
        "apply_cpu_vs_naive_existing": cpu(existing, apply.NAIVE),
        "apply_cpu_vs_naive_new": cpu(new, apply.NAIVE),
        "apply_cpu_vs_aio_existing": cpu(existing, apply.AIO),
        "apply_wall_vs_raw": rate(existing, apply.PARTIQL),
        "ingest_single_rate_vs_fastapi": rate("single", ingest.FASTAPI),
        "ingest_single_rate_vs_naive": rate("single", ingest.NAIVE),
        "ingest_single_p99_vs_fastapi": p99("single", ingest.FASTAPI),
        "ingest_unloaded_p50_vs_raw": p50("one at a time", ingest.RAW),
        "ingest_bulk_rate_vs_fastapi_bulk": rate("bulk", ingest.FASTAPI),
        "ingest_bulk_cpu_vs_raw": cpu("bulk", ingest.RAW),
        "ingest_with_token_vs_open": 1 / cpu("single", ingest.WITH_TOKEN),
        "ingest_rate_beside_waiters": 1 / rate("single", ingest.BESIDE_WAITERS),
        "apply_cpu_vs_aio_new": cpu(new, apply.AIO),
        "apply_cpu_vs_raw": cpu(existing, apply.PARTIQL),
    }


def table(book: Book) -> str:
    """All of it as one Markdown table, and the other figures as a list."""
    head = (
        "| scene | contender | CPU µs/update | updates/s | p50 ms | p99 ms | "
        "CPU, peer : project |\n|---|---|---:|---:|---:|---:|---:|\n"
    )
    notes = "".join(f"- {name}: {value:.4g}\n" for name, value in book.notes.items())
    return head + "".join(_rows(book)) + "\n" + notes


def _rows(book: Book) -> Iterator[str]:
    for scene, contender in book.measures:
        p50 = book.median(scene, contender, lambda measure: measure.p50_s)
        p99 = book.median(scene, contender, lambda measure: measure.p99_s)
        cpu = book.cpu_us(scene, contender)
        compared = cpu / book.cpu_us(scene, OURS)
        figures = (
            f"{cpu:.1f}",
            f"{book.rate(scene, contender):,.0f}",
            _shown(1e3 * p50),
            _shown(1e3 * p99),
            _shown(compared),
        )
        yield f"| {scene} | {contender} | {' | '.join(figures)} |\n"


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def write(bench: Bench, minutes: float) -> None:
    """RESULTS.md, whose words below its figures are kept, and results.json."""
    found = ratios(bench.book)
    numbers = {k: round(v, 3) for k, v in found.items() if not math.isnan(v)}
    (HERE / "results.json").write_text(json.dumps(numbers, indent=2) + "\n")
    results = HERE / "RESULTS.md"
    words = results.read_text().partition(ADDED)[2] if results.exists() else "\n"
    lines = "".join(f"| `{name}` | {value} |\n" for name, value in numbers.items())
    results.write_text(
        f"# Results\n\n{_conditions(bench, minutes)}\n{table(bench.book)}\n"
        f"| ratio (more is better for us) | |\n|---|---:|\n{lines}\n{ADDED}{words}"
    )


def _conditions(bench: Bench, minutes: float) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"`make bench` of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {minutes:.0f} min: "
        f"medians of {bench.rounds} rounds of {bench.seconds:g} s, contenders in "
        f"turn.\n{os.cpu_count()} cores ({_processor()}), {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, {versions}.\n"
        f"Kafka: {engines.KAFKA}. DynamoDB: Amazon's DynamoDB Local. Engines, load "
        "and contenders share the cores;\na contender's CPU is that of its processes "
        "alone.\n"
    )


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()
