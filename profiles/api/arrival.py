"""Arrival: a request as it comes in on the event loop.

In: ASGI's scope and messages. Out: a WSGI environ, and the body within limits of bytes
and time. No thread waits for a client. Does not know who answers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from rest_framework.exceptions import ParseError

from profiles.api import bodies, problems
from profiles.runtime.gates import Full

GRACE_S = 5.0
RATE = 64 * 1024
"""A body has GRACE_S, and a second more for each RATE bytes that have arrived."""

FEW = 128
"""Remembered: a client may send any head, of up to 32 KiB."""

QUEUE_S = 2.0
"""How long a large body may wait for memory."""

Environ = dict[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def environ(scope: Scope) -> Environ:
    """The request's head as WSGI has it (PEP 3333), without a body.

    A header whose name has an underscore is dropped, as Django's own server does it: in
    WSGI, X_Forwarded_For would pass for X-Forwarded-For.
    """
    server, client = scope.get("server"), scope.get("client")
    found: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": _path(scope["raw_path"]),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0] if server else "",
        "SERVER_PORT": str(server[1]) if server else "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": client[0] if client else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key = _key(name)
        if key in found:
            joint = "; " if key == "HTTP_COOKIE" else ","
            found[key] += joint + value.decode("latin-1")
        elif key:
            found[key] = value.decode("latin-1")
    return found


class Arrival:
    """The body of one request, and the memory that it takes.

    A body over its limit is not read: whoever answers refuses it by its announced length.
    """

    def __init__(self, meta: Environ, receive: Receive) -> None:
        self._meta = meta
        self._receive = receive
        self._limit = bodies.limit(meta["REQUEST_METHOD"], meta["PATH_INFO"])
        self._taken = 0

    async def body(self) -> bytes:
        """The bytes, without their chunks' frames. Then the length is in the environ.

        Raises TooSlow, Unavailable or ParseError.
        """
        if self._meta.pop("HTTP_TRANSFER_ENCODING", None) is not None:
            self._meta["CONTENT_LENGTH"] = ""
            body = await self._read(self._limit + 1, is_chunked=True)
            self._meta["CONTENT_LENGTH"] = str(len(body))
            return body if len(body) <= self._limit else b""
        try:
            length = bodies.announced(self._meta)
        except ParseError:
            return b""
        return await self._read(length) if 0 < length <= self._limit else b""

    def release(self) -> None:
        """Give the memory back, after the answer."""
        if self._taken:
            bodies.large.give_back(self._taken)
            self._taken = 0

    async def _read(self, most: int, is_chunked: bool = False) -> bytes:
        deadline = _Deadline()
        body = bytearray()  # not a list: a client may send each byte by itself
        try:
            while True:
                message = await self._receive()
                if message["type"] != "http.request":
                    raise bodies.incomplete()
                chunk = message.get("body", b"")
                body += chunk
                if len(body) > bodies.ONE_BYTES and not self._taken:
                    deadline.extend(QUEUE_S)
                    await self._take_room(most)
                if len(body) >= most or not message.get("more_body"):
                    break
                deadline.extend(len(chunk) / RATE)
        except asyncio.CancelledError:
            if deadline.is_over():
                raise problems.TooSlow from None
            raise
        finally:
            deadline.end()
        if len(body) < most and not is_chunked:
            raise bodies.incomplete()
        return bytes(body)

    async def _take_room(self, amount: int) -> None:
        """Wait for the memory of a large body. Raises Unavailable."""
        if not bodies.large.take(amount):
            try:
                await bodies.large.queue_for(amount, QUEUE_S)
            except Full:
                raise bodies.no_room() from None
        self._taken = amount
        self._meta[bodies.HAS_ROOM] = True


class _Deadline:
    """Cancels the current task when it is over. asyncio.timeout takes twice as long."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._is_over = False
        self._timer = self._loop.call_later(GRACE_S, self._end_task)

    def extend(self, seconds: float) -> None:
        """Move it by so much."""
        self._timer.cancel()
        self._timer = self._loop.call_at(self._timer.when() + seconds, self._end_task)

    def end(self) -> None:
        """The task is done with what the deadline was for."""
        self._timer.cancel()

    def is_over(self) -> bool:
        """Whether it was this that cancelled the task, which then may go on."""
        if self._is_over and self._task is not None:
            self._task.uncancel()
        return self._is_over

    def _end_task(self) -> None:
        if self._task is not None:
            self._is_over = self._task.cancel()


@lru_cache(FEW)
def _path(raw: bytes) -> str:
    return unquote_to_bytes(raw).decode("latin-1")


@lru_cache(FEW)
def _key(name: bytes) -> str:
    """A header's name in the environ; empty for one that has an underscore."""
    if b"_" in name:
        return ""
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
