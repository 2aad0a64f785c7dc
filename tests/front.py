"""The front in process: Django's test client, by way of the event loop.

In: a test's requests. Out: the front's answers, as the client's own. The loop runs in a
thread of its own; Django runs in the test's thread, on its database connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from functools import cache
from http.cookies import SimpleCookie
from queue import SimpleQueue
from threading import Thread
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import quote_from_bytes

from django.core import signals
from django.core.handlers.wsgi import WSGIHandler
from django.db import close_old_connections
from django.http import HttpResponse

from profiles.api.front import Front

T = TypeVar("T")


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The loop of all fronts under test."""
    made = asyncio.new_event_loop()
    Thread(target=made.run_forever, name="front-loop", daemon=True).start()
    return made


class TestThread(Executor):
    """Runs what it is given in the thread that waits for an answer."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()

        def job() -> None:
            try:
                future.set_result(work(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(job)
        return future

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        answered = asyncio.run_coroutine_threadsafe(coroutine, loop())
        answered.add_done_callback(lambda _: self._jobs.put(None))
        while job := self._jobs.get():
            job()
        return answered.result()


class Handler:
    """Stands in for `django.test.client.ClientHandler`."""

    def __init__(self, enforce_csrf_checks: bool = True) -> None:
        self._checks_csrf = enforce_csrf_checks
        self._thread = TestThread()
        self._front: Front | None = None

    def __call__(self, environ: dict[str, Any]) -> HttpResponse:
        if self._front is None:  # the settings are the test's by now
            django = Django(self._checks_csrf)
            self._front = Front(django, self._thread, self._thread)
        for signal in (signals.request_started, signals.request_finished):
            signal.disconnect(close_old_connections)  # Django's own client connects it
        response = self._thread.wait_for(answer(self._front, environ))
        response.wsgi_request = SimpleNamespace()  # type: ignore[attr-defined]
        return response


class Django(WSGIHandler):
    """Lets a test's forms in without a token, as its client does."""

    def __init__(self, checks_csrf: bool) -> None:
        super().__init__()
        self._checks_csrf = checks_csrf

    def get_response(self, request: Any) -> Any:
        request._dont_enforce_csrf_checks = not self._checks_csrf
        return super().get_response(request)


async def answer(front: Front, environ: dict[str, Any]) -> HttpResponse:
    """The front's answer to a request of the test client."""
    sent: list[Any] = []
    body = environ["wsgi.input"].read() if "wsgi.input" in environ else b""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await front(scope(environ), receive, send)
    [start, end] = sent
    has_body = environ["REQUEST_METHOD"] != "HEAD" and start["status"] not in (204, 304)
    response = HttpResponse(end["body"] if has_body else b"", status=start["status"])
    del response["Content-Type"]
    for name, value in start["headers"]:
        if name == b"set-cookie":
            response.cookies.update(SimpleCookie(value.decode("latin-1")))
        else:
            response[name.decode()] = value.decode("latin-1")
    return response


def scope(environ: dict[str, Any]) -> dict[str, Any]:
    """The ASGI scope of a WSGI environ."""
    headers = [
        (name.removeprefix("HTTP_").replace("_", "-").lower(), str(value))
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name.startswith("CONTENT_") and value != "")
    ]
    host = environ.get("HTTP_HOST", environ["SERVER_NAME"])
    if "HTTP_HOST" not in environ:
        headers.append(("host", host))
    if (cookies := environ.get("HTTP_COOKIE")) is not None:
        headers = [each for each in headers if each[0] != "cookie"]
        headers.append(("cookie", cookies))
    return {
        "type": "http",
        "method": environ["REQUEST_METHOD"],
        "raw_path": quote_from_bytes(environ["PATH_INFO"].encode("latin-1")).encode(),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "scheme": environ["wsgi.url_scheme"],
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
        "client": (environ["REMOTE_ADDR"], 1),
        "headers": [(name.encode(), _bytes(value)) for name, value in headers],
    }


def _bytes(value: str) -> bytes:
    return value.encode("latin-1")
