"""The production server, as its processes show it (Linux)."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests import stack
from tests.engines.process import free_port, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


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


STALLED = {
    "a post": b"POST /patientprofile HTTP/1.1\r\nContent-Type: application/json\r\n",
    "a sign-in": b"POST /admin/login/ HTTP/1.1\r\nContent-Type: text/plain\r\n",
    "a page": b"POST /profiles/ HTTP/1.1\r\nContent-Type: text/plain\r\n",
}


@pytest.mark.parametrize("head", STALLED.values(), ids=STALLED.keys())
@pytest.mark.parametrize(
    "framed", [b"Content-Length: 50", b"Transfer-Encoding: chunked"]
)
def test_clients_that_send_half_a_body_hold_up_nobody(web, head, framed):
    half = head + b"Host: 127.0.0.1\r\n" + framed + b"\r\n\r\n1"
    with ExitStack() as stalled:
        for _ in range(200):
            address = ("127.0.0.1", web.port)
            client = stalled.enter_context(socket.create_connection(address, 10))
            client.sendall(half)
        for path in ("/livez", "/admin/login/"):
            began = time.monotonic()
            assert requests.get(web.url + path, timeout=10).status_code == 200
            assert time.monotonic() - began < 1
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_chunked_body_is_read(web):
    def chunks() -> Iterator[bytes]:
        yield b'{"PatientId": "1",'
        yield b'"Shoe": "44"}'

    json = {"Content-Type": "application/json"}
    path = f"{web.url}/patientprofile"
    answer = requests.post(path, chunks(), headers=json, timeout=10)
    assert (answer.status_code, [*answer.json()["errors"]]) == (400, ["Shoe"])
