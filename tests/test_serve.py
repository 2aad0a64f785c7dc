"""The production server, as its processes show it (Linux)."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import stack
from tests.engines.process import free_port, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


def workers(web: stack.Web) -> list[Path]:
    """The server's children, less the one that multiprocessing keeps for itself."""
    return [p for p in Path("/proc").glob("[0-9]*") if is_worker(p, web.pid)]


def is_worker(process: Path, server: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):  # others come and go
        tracks = b"resource_tracker" in (process / "cmdline").read_bytes()
        return f"PPid:\t{server}\n" in (process / "status").read_text() and not tracks
    return False


def cores(process: Path) -> set[str]:
    """What its threads are kept to; one that ends while it is asked has no say."""
    allowed = set()
    for thread in (process / "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            lines = (thread / "status").read_text().splitlines()
            allowed |= {line for line in lines if line.startswith("Cpus_allowed_list")}
    return allowed


@pytest.mark.parametrize("one_core", ["0", "1"])
def test_a_worker_is_kept_to_a_core_where_that_is_wanted(tmp_path, one_core):
    nobody = f"127.0.0.1:{free_port()}"
    environ = stack.stack_on(tmp_path, nobody, f"http://{nobody}").environ
    web = stack.Web(tmp_path, {**environ, "WEB_ONE_CORE": one_core}, workers=2)
    started = b"Started worker-"
    web.start()
    try:
        wait_until(lambda: web.log.read_bytes().count(started) == 2, 60, "no workers")
        allowed = [cores(worker) for worker in workers(web)]
    finally:
        web.kill()
    distinct = {each for threads in allowed for each in threads}
    assert [len(threads) for threads in allowed] == [1, 1]
    together = min(2, len(os.sched_getaffinity(0)))
    assert len(distinct) == (together if one_core == "1" else 1)
