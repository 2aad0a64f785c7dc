"""The proxy passes calls on, or harms them as it is told."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.chaos import proxy
from tests.chaos.proxy import Proxy
from tests.engines.process import wait_until

Ask = Callable[[], "Future[tuple[int, bytes]]"]


class Table(BaseHTTPRequestHandler):
    """Answers with what it was told, and keeps it."""

    heard: list[bytes]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    calls: list[bytes] = []
    monkeypatch.setattr(Table, "heard", calls, raising=False)
    return calls


@pytest.fixture
def between(heard: list[bytes]) -> Iterator[Proxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Table) as table:
        table.daemon_threads = True
        Thread(target=table.serve_forever, daemon=True).start()
        standing = Proxy(table.server_port)
        yield standing
        standing.close()
        table.shutdown()


@pytest.fixture
def ask(between: Proxy) -> Iterator[Ask]:
    port = int(between.endpoint_url.rpartition(":")[2])

    def call() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", "/", b"call")
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        yield lambda: pool.submit(call)


def test_a_call_goes_through_unharmed(ask, heard):
    assert ask().result() == (200, b"call")
    assert heard == [b"call"]


@pytest.mark.parametrize(
    ("fault", "status", "name"),
    [
        (proxy.throttled, 400, b"#ProvisionedThroughputExceededException"),
        (proxy.failing, 500, b"#InternalServerError"),
    ],
)
def test_a_refused_call_does_not_reach_the_table(
    between, ask, heard, fault, status, name
):
    between.fault = fault
    answered, body = ask().result()
    assert answered == status
    assert name in body
    assert heard == []


def test_an_unanswered_call_reaches_the_table(between, ask, heard):
    between.fault = proxy.unanswered
    with pytest.raises(http.client.RemoteDisconnected):
        ask().result()
    assert heard == [b"call"]


def test_a_held_call_goes_on_when_it_is_released(between, ask, heard):
    between.hold()
    asked = ask()
    wait_until(lambda: between.held == 1, 5, "no call was held")
    assert heard == []
    assert between.busy == 1
    between.release()
    assert asked.result() == (200, b"call")
    wait_until(lambda: between.busy == 0, 5, "a call was under way")


def test_calls_of_other_operations_pass(between, ask, heard):
    between.hold("UpdateItem")
    assert ask().result() == (200, b"call")
    between.hold("UpdateItem", "")
    asked = ask()
    wait_until(lambda: between.held == 1, 5, "no call was held")
    between.release()
    assert asked.result() == (200, b"call")


def test_a_dropped_call_never_reaches_the_table_and_the_next_one_does(
    between, ask, heard
):
    between.hold()
    asked = ask()
    wait_until(lambda: between.held == 1, 5, "no call was held")
    between.drop()
    with pytest.raises(http.client.RemoteDisconnected):
        asked.result()
    assert heard == []
    assert ask().result() == (200, b"call")


def test_half_of_the_calls_are_harmed(between, ask):
    between.fault = proxy.one_in(2, proxy.throttled)
    statuses = {ask().result()[0] for _ in range(40)}
    assert statuses == {200, 400}


def test_without_the_table_the_call_is_hung_up(heard):
    nobody = Proxy(1)
    port = int(nobody.endpoint_url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/", b"call")
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()
    connection.close()
    nobody.close()
