"""The production server, as its processes show it (Linux)."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import stack
from tests.engines.process import free_port, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

several_cores = pytest.mark.skipif(
    sys.platform == "linux" and len(os.sched_getaffinity(0)) == 1,
    reason="it needs two cores",
)


def workers(web: stack.Web) -> list[Path]:
    """The server's children, less the one that multiprocessing keeps for itself."""
    return [p for p in Path("/proc").glob("[0-9]*") if is_worker(p, web.pid)]


def is_worker(process: Path, server: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):  # others come and go
        tracks = b"resource_tracker" in (process / "cmdline").read_bytes()
        return f"PPid:\t{server}\n" in (process / "status").read_text() and not tracks
    return False


def cores(worker: Path) -> Counter[str]:
    """What its threads are kept to; one that ends while it is asked has no say."""
    allowed: Counter[str] = Counter()
    for thread in (worker / "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            status = (thread / "status").read_text()
            allowed[re.findall(r"Cpus_allowed_list:\t(.+)", status)[0]] += 1
    return allowed


def core(worker: Path) -> int | None:
    """The one to which all its threads are kept, but the thread that keeps them."""
    (most, _), *others = cores(worker).most_common()
    kept = most.isdigit() and [count for _, count in others] == [1]
    return int(most) if kept else None


@contextmanager
def serving(directory: Path, **environ: str) -> Iterator[list[Path]]:
    """The two workers of a server without engines."""
    nobody = f"127.0.0.1:{free_port()}"
    stood = stack.stack_on(directory, nobody, f"http://{nobody}").environ
    web = stack.Web(directory, {**stood, **environ}, workers=2)
    started = b"Started worker-"
    web.start()
    try:
        wait_until(lambda: web.log.read_bytes().count(started) == 2, 60, "no workers")
        yield workers(web)
    finally:
        web.kill()


@several_cores
def test_each_worker_keeps_to_one_core(tmp_path):
    with serving(tmp_path) as both:
        kept = "a worker is not kept to a core"
        wait_until(lambda: None not in map(core, both), 20, kept)


@several_cores
def test_no_worker_keeps_to_a_core_where_that_is_not_wanted(tmp_path):
    with serving(tmp_path, WEB_ONE_CORE="0") as both:
        assert [len(cores(worker)) for worker in both] == [1, 1]
        assert [core(worker) for worker in both] == [None, None]
