"""A DynamoDB endpoint that a fault run controls: one per client of the table.

In: a client's calls. Out: what the table behind it answers, or a fault instead; calls
can be held and let go later, even when their client has given them up. Knows nothing
of the calls' content but which operation is called.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import NamedTuple

FORWARD_TIMEOUT_S = 60
JSON_1_0 = "application/x-amz-json-1.0"


class Answer(NamedTuple):
    status: int
    body: bytes


Forward = Callable[[], Answer]
Fault = Callable[[Forward], Answer | None]
"""What happens to a call; None hangs up without an answer."""


def unharmed(forward: Forward) -> Answer | None:
    return forward()


def throttled(forward: Forward) -> Answer | None:
    return _error(400, "ProvisionedThroughputExceededException")


def failing(forward: Forward) -> Answer | None:
    return _error(500, "InternalServerError")


def unanswered(forward: Forward) -> Answer | None:
    """The call has its effect, its client never learns of it."""
    forward()
    return None


def swallowed(forward: Forward) -> Answer | None:
    """No effect, and silence for longer than any client waits."""
    time.sleep(6)
    return None


def slow(forward: Forward) -> Answer | None:
    time.sleep(random.uniform(0.5, 3))
    return forward()


def one_in(calls: int, fault: Fault) -> Fault:
    """The fault for one in so many calls, by chance."""

    def one_or_the_other(forward: Forward) -> Answer | None:
        return random.choice((fault, *[unharmed] * (calls - 1)))(forward)

    one_or_the_other.__name__ = f"1 in {calls} {fault.__name__}"
    return one_or_the_other


def _error(status: int, name: str) -> Answer:
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{name}", "message": "chaos"}
    return Answer(status, json.dumps(body).encode())


class Proxy:
    """Serves from the moment it is made until it is closed."""

    def __init__(self, upstream_port: int) -> None:
        self.fault: Fault = unharmed
        self.busy = 0
        self._upstream_port = upstream_port
        self._lock = Lock()
        self._holding = False
        self._held_operations: tuple[str, ...] = ()
        self._held: list[Future[bool]] = []
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def held(self) -> int:
        return len(self._held)

    def hold(self, *operations: str) -> None:
        """Keep every call from now on, or those of these operations."""
        with self._lock:
            self._holding, self._held_operations = True, operations

    def release(self) -> None:
        """Let the held calls go on to the table, in whatever order."""
        self._end_hold(goes_on=True)

    def drop(self) -> None:
        """Forget the held calls: the table never sees them."""
        self._end_hold(goes_on=False)

    def close(self) -> None:
        self.drop()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, call: Call) -> Answer | None:
        with self._lock:
            self.busy += 1
        try:
            if self._may_pass(call.operation):
                return self.fault(call.forward)
        except (OSError, http.client.HTTPException):
            call.hang_up()  # the table is away, and so are we
        finally:
            with self._lock:
                self.busy -= 1
        return None

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(
            "127.0.0.1", self._upstream_port, timeout=FORWARD_TIMEOUT_S
        )

    def _may_pass(self, operation: str) -> bool:
        with self._lock:
            held = self._held_operations or (operation,)
            if not self._holding or operation not in held:
                return True
            verdict: Future[bool] = Future()
            self._held.append(verdict)
        return verdict.result()

    def _end_hold(self, *, goes_on: bool) -> None:
        with self._lock:
            held, self._held, self._holding = self._held, [], False
        for verdict in held:
            verdict.set_result(goes_on)


class Call:
    """One request of a client, and the connection it would be forwarded on."""

    def __init__(
        self, upstream: http.client.HTTPConnection, headers: dict[str, str], body: bytes
    ) -> None:
        self._upstream = upstream
        self._headers = headers
        self._body = body

    @property
    def operation(self) -> str:
        return self._headers.get("X-Amz-Target", "").rpartition(".")[2]

    def forward(self) -> Answer:
        self._upstream.request("POST", "/", self._body, self._headers)
        answer = self._upstream.getresponse()
        return Answer(answer.status, answer.read())

    def hang_up(self) -> None:
        self._upstream.close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, killed as likely as not, is no news."""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self.upstream = proxy.connect()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = proxy.answer(Call(self.upstream, dict(self.headers), body))
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", JSON_1_0)
            self.send_header("Content-Length", str(len(answer.body)))
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(answer.body)

        def finish(self) -> None:
            self.upstream.close()
            with suppress(ConnectionError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:
            """Thousands of calls are no news either."""

    return Handler
