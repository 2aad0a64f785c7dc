"""The production server, as its processes show it (Linux)."""

from __future__ import annotations

import os
import re
import socket
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
    """The server's child processes, without multiprocessing's resource tracker."""
    return [p for p in Path("/proc").glob("[0-9]*") if is_worker(p, web.pid)]


def is_worker(process: Path, server: int) -> bool:
    with suppress(
        FileNotFoundError, ProcessLookupError
    ):  # other processes may end meanwhile
        tracks = b"resource_tracker" in (process / "cmdline").read_bytes()
        return f"PPid:\t{server}\n" in (process / "status").read_text() and not tracks
    return False


def cores(worker: Path) -> Counter[str]:
    """The cores that its threads may use; a thread that ends meanwhile is left out."""
    allowed: Counter[str] = Counter()
    for thread in (worker / "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            status = (thread / "status").read_text()
            allowed[re.findall(r"Cpus_allowed_list:\t(.+)", status)[0]] += 1
    return allowed


def core(worker: Path) -> int | None:
    """The core of all its threads except the one that pins them; None if they differ."""
    (most, _), *others = cores(worker).most_common()
    kept = most.isdigit() and [count for _, count in others] == [1]
    return int(most) if kept else None


@contextmanager
def serving(directory: Path, count: int = 2, **environ: str) -> Iterator[stack.Web]:
    """A server without engines, whose workers have started."""
    nobody = f"127.0.0.1:{free_port()}"
    stood = stack.stack_on(directory, nobody, f"http://{nobody}").environ
    web = stack.Web(directory, {**stood, **environ}, workers=count)
    started = b"Started worker-"
    web.start()
    try:
        wait_until(
            lambda: web.log.read_bytes().count(started) == count, 60, "no workers"
        )
        yield web
    finally:
        web.kill()


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Iterator[stack.Web]:
    with serving(tmp_path_factory.mktemp("web"), count=1) as web:
        yield web


def answer(web: stack.Web, sent: bytes) -> bytes:
    """What the server answers until it closes; TimeoutError if it keeps waiting.

    If it closes before it has read everything, its answer may be lost.
    """
    said = b""
    client = socket.create_connection(("127.0.0.1", web.port), timeout=10)
    with client, suppress(ConnectionError):
        client.sendall(sent)
        while received := client.recv(4096):
            said += received
    return said


def request(headers: bytes) -> bytes:
    return b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers


@several_cores
def test_each_worker_keeps_to_one_core(tmp_path):
    with serving(tmp_path) as web:
        both = workers(web)
        kept = "a worker is not kept to a core"
        wait_until(lambda: None not in map(core, both), 20, kept)


@several_cores
def test_no_worker_keeps_to_a_core_where_that_is_not_wanted(tmp_path):
    with serving(tmp_path, WEB_ONE_CORE="0") as web:
        both = workers(web)
        assert [len(cores(worker)) for worker in both] == [1, 1]
        assert [core(worker) for worker in both] == [None, None]


CLOSE = b"Connection: close\r\n\r\n"


def test_a_head_with_a_long_token_is_read(web):
    token = b"Authorization: Bearer " + b"a" * 16_000 + b"\r\n"
    assert answer(web, request(token + CLOSE)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("end", [b"", b"\r\n" + CLOSE], ids=["without end", "whole"])
@pytest.mark.parametrize("size", [64_000, 400_000])
def test_a_head_that_is_too_long_is_not_read_to_its_end(web, size, end):
    said = answer(web, request(b"X-Long: " + b"a" * size + end))
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")


def test_http_2_is_not_spoken(web):
    """In HTTP/2, a client that leaves in mid-body makes a thread spin forever."""
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4" + b"\0" * 5
    said = answer(web, preface + settings)
    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
