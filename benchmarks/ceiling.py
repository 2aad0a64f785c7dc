"""The ceiling scenes: consumers before a table that takes every write.

In: a Bench. Out: measures in its book. The table answers after 0, 5 and 10 ms: at once,
to show what a consumer can do at most; later, to show what it does while calls are under
way. Beside the project: its own base commit, and a consumer in Go.
"""

from __future__ import annotations

import itertools
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import apply, builds, engines, workload
from benchmarks.bench import Bench
from benchmarks.contenders import ROOT, Contender, Site, go_consumer, our_consumer

OURS, BEFORE, GO = apply.OURS, "project before", apply.GO
DELAYS_MS = (0, 5, 10)
TIMES_ROUND = 14
"""So many that the backlog outlasts a window of the fastest."""

Make = Callable[[Site], Contender | None]


def scenes(bench: Bench) -> None:
    """Every consumer at every delay, each time from the beginning of the same topic."""
    program = builds.program("table")
    if program is None:
        return
    site = engines.provision(bench.apache, "ceiling")
    patients = list(workload.updates(apply.PATIENTS))
    engines.fill_topic(site, patients * TIMES_ROUND)
    consumers = _consumers(bench)
    groups = itertools.count(1)
    for _, delay in itertools.product(range(bench.rounds), DELAYS_MS):
        with engines.TakingTable(program, bench.directory, delay) as table:
            for name, make in consumers.items():
                own = site.having(
                    DYNAMODB_ENDPOINT_URL=table.endpoint_url,
                    KAFKA_GROUP_ID=f"ceiling-{next(groups)}",
                )
                if consumer := make(own):
                    done = apply.measure(own, [consumer], bench.seconds)
                    bench.note(f"apply, {delay} ms a call", name, done)


def _consumers(bench: Bench) -> dict[str, Make]:
    consumers: dict[str, Make] = {OURS: our_consumer, GO: go_consumer}
    if before := check_out(bench.base, bench.directory / "before"):
        consumers[BEFORE] = lambda site: our_consumer(site, "before", before)
    return consumers


def check_out(commit: str, folder: Path) -> Path | None:
    """The project's files at a commit; None where git or the commit is not there."""
    command = ["git", "-C", str(ROOT), "archive", commit]
    try:
        archive = subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        builds.leave_out(BEFORE, f"the commit {commit} can't be checked out")
        return None
    packed = folder.with_suffix(".tar")
    packed.write_bytes(archive.stdout)
    with tarfile.open(packed) as files:
        files.extractall(folder, filter="data")
    return folder
