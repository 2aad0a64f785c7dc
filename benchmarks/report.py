"""The report: a part's book as one table for people, and as numbers for machines.

In: a Book. Out: its section of RESULTS.md, and its numbers in results.json; those of
other parts are kept. A ratio is always a peer's figure over ours or ours over a peer's,
so that more is better for us.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import apply, builds, ceiling, ingest, outage, page
from benchmarks.bench import Bench
from benchmarks.book import Book, Measure

HERE = Path(__file__).parent
OURS = "project"
PACKAGES = ("django", "djangorestframework", "granian", "confluent-kafka", "boto3")
ADDED = "<!-- What follows is written by hand. -->"
LESS_IS_BETTER = ("outage_threads_gained", "detail_page_ms", "applied_ms")
_SECTION = re.compile(r"^## (\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def numbers(book: Book) -> dict[str, float]:
    """The headline figures of what was played."""
    found = {**_ingest(book), **_apply(book), **_figures(book)}
    return {name: round(v, 3) for name, v in found.items() if not math.isnan(v)}


def _ingest(book: Book) -> dict[str, float]:
    def p50(scene: str, peer: str) -> float:
        return _over(book, scene, peer, lambda measure: measure.p50_s)

    tansu, alone, arrays = "single on Tansu", "one at a time on Tansu", "bulk on Tansu"
    return {
        "single_64_vs_fastapi": _cpu(book, "single, 64", ingest.FASTAPI),
        "single_256_vs_fastapi": _cpu(book, "single, 256", ingest.FASTAPI),
        "single_256_vs_blacksheep": _cpu(book, "single, 256", ingest.BLACKSHEEP),
        "single_256_vs_rust": _cpu(book, "single, 256", ingest.RUST),
        "single_64_p99_vs_fastapi": _over(
            book, "single, 64", ingest.FASTAPI, lambda measure: measure.p99_s
        ),
        "single_1_p50_vs_fastapi": p50("single, 1", ingest.FASTAPI),
        "kafka_cpu_256_vs_fastapi": _over(
            book, "single, 256", ingest.FASTAPI, lambda measure: measure.kafka_us
        ),
        "bulk_cpu_vs_rust": _cpu(book, "bulk", ingest.RUST),
        "ndjson_cpu_vs_array": book.cpu_us("bulk", OURS)
        / book.cpu_us("bulk, NDJSON", OURS),
        "ingest_single_vs_fastapi": _cpu(book, tansu, ingest.FASTAPI),
        "ingest_single_vs_naive": _cpu(book, tansu, ingest.NAIVE),
        "ingest_bulk_vs_fastapi_bulk": _cpu(book, arrays, ingest.FASTAPI),
        "ingest_bulk_vs_raw": _rate(book, arrays, ingest.RAW),
        "ingest_single_rate_vs_fastapi": _rate(book, tansu, ingest.FASTAPI),
        "ingest_single_rate_vs_naive": _rate(book, tansu, ingest.NAIVE),
        "ingest_single_p99_vs_fastapi": _over(
            book, tansu, ingest.FASTAPI, lambda measure: measure.p99_s
        ),
        "ingest_unloaded_p50_vs_raw": p50(alone, ingest.RAW),
        "ingest_bulk_rate_vs_fastapi_bulk": _rate(book, arrays, ingest.FASTAPI),
        "ingest_bulk_cpu_vs_raw": _cpu(book, arrays, ingest.RAW),
        # No worker is pinned to a core any more: as the two without `any_core`.
        "ingest_bulk_any_core_vs_raw": _rate(book, arrays, ingest.RAW),
        "ingest_any_core_vs_fastapi": _cpu(book, tansu, ingest.FASTAPI),
        "ingest_with_token_vs_open": 1 / _cpu(book, tansu, ingest.WITH_TOKEN),
        "ingest_rate_beside_waiters": 1 / _rate(book, tansu, ingest.BESIDE_WAITERS),
    }


def _apply(book: Book) -> dict[str, float]:
    existing, new = "apply existing", "apply new"
    at_once, later = "apply, 0 ms a call", "apply, 10 ms a call"
    return {
        "apply_ceiling_vs_go": _rate(book, at_once, ceiling.GO),
        "apply_10ms_vs_today": _rate(book, later, ceiling.BEFORE),
        "apply_cpu_vs_go": _cpu(book, at_once, ceiling.GO),
        "apply_cpu_vs_naive_existing": _cpu(book, existing, apply.NAIVE),
        "apply_cpu_vs_naive_new": _cpu(book, new, apply.NAIVE),
        "apply_cpu_vs_aio_existing": _cpu(book, existing, apply.AIO),
        "apply_cpu_vs_aio_new": _cpu(book, new, apply.AIO),
        "apply_wall_vs_raw": _rate(book, existing, apply.PARTIQL),
        "apply_cpu_vs_raw": _cpu(book, existing, apply.PARTIQL),
    }


def _figures(book: Book) -> dict[str, float]:
    gained = [book.notes[name] for name in outage.GAINED.values() if name in book.notes]
    return {
        "outage_threads_gained": max(gained, default=math.nan),
        "detail_page_ms": book.notes.get(page.DETAIL_MS, math.nan),
        "applied_ms": book.notes.get(apply.APPLIED_MS, math.nan),
    }


def _cpu(book: Book, scene: str, peer: str) -> float:
    return book.cpu_us(scene, peer) / book.cpu_us(scene, OURS)


def _rate(book: Book, scene: str, peer: str) -> float:
    return book.rate(scene, OURS) / book.rate(scene, peer)


def _over(
    book: Book, scene: str, peer: str, what: Callable[[Measure], float | None]
) -> float:
    """The peer's figure over ours."""
    return book.median(scene, peer, what) / book.median(scene, OURS, what)


def table(book: Book) -> str:
    """All of it as one Markdown table, and the other figures as a list."""
    head = (
        "| scene | contender | CPU µs/update | Kafka's CPU µs | updates/s | p50 ms | "
        "p99 ms | CPU, peer : project |\n|---|---|---:|---:|---:|---:|---:|---:|\n"
    )
    notes = "".join(f"- {name}: {value:.4g}\n" for name, value in book.notes.items())
    left = "".join(f"- left out: {n}: {why}\n" for n, why in builds.left_out.items())
    rows = head + "".join(_rows(book)) + "\n" if book.measures else ""
    return rows + notes + left


def _rows(book: Book) -> Iterator[str]:
    for scene, contender in book.measures:
        p50 = book.median(scene, contender, lambda measure: measure.p50_s)
        p99 = book.median(scene, contender, lambda measure: measure.p99_s)
        cpu = book.cpu_us(scene, contender)
        compared = cpu / book.cpu_us(scene, OURS)
        figures = (
            f"{cpu:.1f}",
            _shown(book.median(scene, contender, lambda measure: measure.kafka_us)),
            f"{book.rate(scene, contender):,.0f}",
            _shown(1e3 * p50),
            _shown(1e3 * p99),
            _shown(compared),
        )
        yield f"| {scene} | {contender} | {' | '.join(figures)} |\n"


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def write(part: str, bench: Bench, minutes: float) -> dict[str, float]:
    """Replace the part in RESULTS.md and results.json; returns its numbers."""
    found = numbers(bench.book)
    all_numbers = {**json.loads((HERE / "results.json").read_text()), **found}
    (HERE / "results.json").write_text(json.dumps(all_numbers, indent=2) + "\n")
    results = HERE / "RESULTS.md"
    generated, _, words = results.read_text().partition(ADDED)
    sections = {
        **dict(_SECTION.findall(generated)),
        "numbers": _numbers_section(all_numbers),
        part: f"\n{_conditions(part, bench, minutes)}\n{table(bench.book)}\n",
    }
    text = "".join(f"## {name}\n{section}" for name, section in sections.items())
    results.write_text(f"# Results\n\n{text}{ADDED}{words}")
    return found


def _numbers_section(found: dict[str, float]) -> str:
    def lines(names: Iterable[str]) -> str:
        return "".join(f"| `{name}` | {found[name]} |\n" for name in names)

    more = lines(name for name in found if name not in LESS_IS_BETTER)
    less = lines(name for name in LESS_IS_BETTER if name in found)
    return (
        f"\n| ratio (more is better for us) | |\n|---|---:|\n{more}\n"
        f"| figure (less is better) | |\n|---|---:|\n{less}\n"
    )


def _conditions(part: str, bench: Bench, minutes: float) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"`make bench PARTS={part}` of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, "
        f"{minutes:.1f} min: medians of {bench.rounds} rounds of {bench.seconds:g} s.\n"
        f"{os.cpu_count()} cores ({_processor()}), {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, {versions}.\n"
    )


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()
