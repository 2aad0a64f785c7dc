"""The front: an event loop before Django (ASGI), for `manage.py serve`.

In: requests of HTTP/1.1. Out: answers. It reads every body, and answers POSTs of updates
itself: by the functions that the view calls, with as many under way as there are
connections. Everything else goes to Django's WSGI application, in a few threads. Where a
middleware would refuse a POST, Django does it too. See ADR 0011.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import lru_cache
from threading import Thread
from typing import Any, TypeVar

from django.conf import settings
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.handlers.exception import response_for_exception
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http import HttpRequest, HttpResponse
from django.middleware.security import SecurityMiddleware
from django.utils.http import parse_header_parameters

from profiles.access import audit_trail, callers
from profiles.api import arrival, bodies, posting, problems
from profiles.api.answers import Answer
from profiles.api.arrival import Arrival, Environ, Receive, Scope
from profiles.runtime import tracing
from profiles.runtime.gates import Budget

log = logging.getLogger(__name__)

LIVE = "/livez"
WAITING = 1000
"""Most requests that wait for a thread: with a form each, 64 MiB."""

QUEUE_S = 4.0
"""How long a request may wait for a thread: below the 5 s of an answer."""

LONGEST = 1000
"""Longest Content-Type or Accept to read. Of 30 KB, Django takes up to a second."""

A = TypeVar("A")
T = TypeVar("T")
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Posted(WSGIRequest):
    """A POST of updates as Django's request, without the parts that it does not need.

    To make those takes longer than to validate an update.
    """

    def __init__(self, environ: Environ, body: bytes) -> None:
        self.environ = self.META = environ
        self.method = environ["REQUEST_METHOD"]
        self.path = self.path_info = environ["PATH_INFO"]
        self.content_type = _media_type(environ.get("CONTENT_TYPE", ""))
        self._body = body


class Front:
    """The ASGI application. `threads` and `probes` run Django."""

    def __init__(
        self,
        django: WSGIHandler,
        threads: Executor | None = None,
        probes: Executor | None = None,
    ) -> None:
        self._django = django
        self._threads = threads or ThreadPoolExecutor(settings.WEB_THREADS, "django")
        self._probes = probes or ThreadPoolExecutor(2, "probes")
        self._waiting = Budget(WAITING)
        self._guard = callers.OpenModeGuard(_never)
        self._security = SecurityMiddleware(_never)
        self._security_headers: dict[bool, list[tuple[str, str]]] = {}
        self._trail: audit_trail.Turns | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or start and end with the server."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            environ = arrival.environ(scope)
            _drop_what_takes_long(environ)
            arriving = Arrival(environ, receive)
            try:
                answer = await self._answer(environ, arriving)
            except Exception as error:
                answer = self._refused(Posted(environ, b""), error)
            finally:
                arriving.release()
            await _send(send, answer)

    async def _answer(self, environ: Environ, arriving: Arrival) -> Answer:
        body = await arriving.body()
        if _is_update(environ) and "HTTP_PREFER" not in environ:
            request = Posted(environ, body)
            if self._is_let_in(request):
                return await self._post(request)
        environ["wsgi.input"] = io.BytesIO(body)
        return await self._by_django(environ)

    # POSTs of updates

    def _is_let_in(self, request: HttpRequest) -> bool:
        """Whether no middleware refuses it, and its token is known already."""
        try:
            self._guard.check(request)
            redirect = self._security.process_request(request)
        except (SuspiciousOperation, PermissionDenied):
            return False
        return redirect is None and callers.is_known(request)

    async def _post(self, request: Posted) -> Answer:
        """As the view's `post`, awaited."""
        tracing.name(request)
        answer = await self._published(request)
        posting.count_refused(answer.status)
        return answer.having(self._headers(request))

    async def _published(self, request: Posted) -> Answer:
        posting.admit(request)
        body = bodies.read(request)
        updates = posting.read_at_once(body)
        if updates is None:  # the loop has no time for a closer look
            updates = await self._in_thread(posting.read, body)
        with posting.Publishing(request) as headers:
            verdicts = await posting.publisher().publish_awaited(updates, headers)
        patients = posting.accepted(updates, verdicts)
        if self._trail is None:
            self._trail = audit_trail.Turns(asyncio.get_running_loop())
        await self._trail.note(request, "update", patients)
        return posting.answer(body, updates, verdicts)

    def _refused(self, request: Posted, error: Exception) -> Answer:
        response = posting.refusal(error)
        if _is_update(request.environ):
            posting.count_refused(response.status_code if response else 500)
        if response is None:
            response = response_for_exception(request, error)
        return Answer.of(response).having(self._headers(request))

    def _headers(self, request: Posted) -> list[tuple[str, str]]:
        """What the middlewares add to every response."""
        secure = request.is_secure()
        if secure not in self._security_headers:
            response = self._security.process_response(request, HttpResponse())
            del response["Content-Type"]
            self._security_headers[secure] = [*response.items()]
        return [
            *self._security_headers[secure],
            ("X-Request-ID", tracing.name(request)),
        ]

    # Everything else

    async def _by_django(self, environ: Environ) -> Answer:
        path = environ["PATH_INFO"]
        if path == LIVE:  # it waits for nothing, and must not wait for a thread
            return self._call(environ)
        if path in callers.PROBES:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._probes, self._call, environ)
        return await self._in_thread(self._call, environ)

    async def _in_thread(self, work: Callable[[A], T], argument: A) -> T:
        """Raises Unavailable if too many requests wait for a thread, or this one for
        QUEUE_S.
        """
        if not self._waiting.take(1):
            raise _no_thread()
        job = self._threads.submit(work, argument)
        # What has begun can't be cancelled.
        late = asyncio.get_running_loop().call_later(QUEUE_S, job.cancel)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _no_thread() from None
        finally:
            late.cancel()
            self._waiting.give_back(1)

    def _call(self, environ: Environ) -> Answer:
        """Django's answer."""
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            started.append((status, headers))

        response = self._django(environ, start)
        try:
            body = b"".join(response)
        finally:
            response.close()
        [(status, headers)] = started
        return Answer(int(status[:3]), headers, body)


async def _live(receive: Receive, send: Send) -> None:
    """Start and end with the server."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            posting.publisher()  # one, before two threads ask for it
            Thread(target=posting.connect, name="connect", daemon=True).start()
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _send(send: Send, answer: Answer) -> None:
    headers = [
        (_lower(name), value.encode("latin-1")) for name, value in answer.headers
    ]
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body})


@lru_cache(256)
def _lower(name: str) -> bytes:
    return name.lower().encode("latin-1")


def _is_update(environ: Environ) -> bool:
    return (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", bodies.PATH)


def _drop_what_takes_long(environ: Environ) -> None:
    """Go on without a header that Django can't parse, or not at once."""
    content_type = environ.get("CONTENT_TYPE", "")
    if len(content_type) > LONGEST or _media_type(content_type) is None:
        environ["CONTENT_TYPE"] = ""
    if len(environ.get("HTTP_ACCEPT", "")) > LONGEST:
        del environ["HTTP_ACCEPT"]


@lru_cache(arrival.FEW)
def _media_type(content_type: str) -> str | None:
    """None if Django can't parse it."""
    try:
        return parse_header_parameters(content_type)[0]
    except ValueError:
        return None


def _no_thread() -> problems.Unavailable:
    return problems.Unavailable("Too many requests at a time. Send it again.")


def _never(request: HttpRequest) -> HttpResponse:
    raise NotImplementedError("a middleware that is only asked what it would do")
