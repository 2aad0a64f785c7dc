"""The connections: kept alive to one endpoint, each for one request at a time.

In: the endpoint's URL. Out: a connection, and an HTTP answer from it by a deadline.
Raises what botocore raises. Knows no request.
"""

from __future__ import annotations

import http.client
import io
import os
import select
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    SSLError,
)
from botocore.httpsession import get_cert_path

from profiles.dynamodb.client import CONNECT_S, StoreRefused

MOST_BYTES = 32 * 1024 * 1024
"""Of an answer: it may return 25 items of 400 KB."""

PIECE_BYTES = 64 * 1024
"""Of a body, read at a time: memory is not reserved for a length that is only announced."""

ARRIVED_S = 0.05
"""For an answer that has arrived when its deadline is over."""


class Connections:
    """To one endpoint; raises StoreRefused where its certificates can't be verified."""

    def __init__(self, url: str) -> None:
        self._url = url
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        self._address = parts.hostname or "", parts.port or (443 if tls else 80)
        self._tls = _tls() if tls else None
        self._idle: list[socket.socket] = []

    def take_idle(self) -> socket.socket | None:
        """One that an earlier request has used, and that is still open."""
        while self._idle:
            connection = self._idle.pop()
            if not _has_news(connection):
                return connection
            connection.close()
        return None

    def give_back(self, connection: socket.socket) -> None:
        """After an answer that was read to its end."""
        self._idle.append(connection)

    def open(self, deadline: float) -> socket.socket:
        """A new one; raises a BotoCoreError."""
        try:
            seconds = min(CONNECT_S, _left_s(deadline))
            connection = socket.create_connection(self._address, seconds)
            return self._secure(connection)
        except TimeoutError:
            raise ConnectTimeoutError(endpoint_url=self._url) from None
        except ssl.SSLError as error:
            raise SSLError(endpoint_url=self._url, error=error) from None
        except OSError:
            raise EndpointConnectionError(endpoint_url=self._url) from None

    def _secure(self, connection: socket.socket) -> socket.socket:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return connection
            return self._tls.wrap_socket(connection, server_hostname=self._address[0])
        except OSError:
            connection.close()
            raise

    def close(self) -> None:
        """Close the idle ones."""
        while self._idle:
            self._idle.pop().close()


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One HTTP answer; names of headers in any case."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes = field(repr=False)
    closes: bool


def send(connection: socket.socket, request: bytes, deadline: float) -> None:
    """Send all of a request; raises OSError."""
    connection.settimeout(_left_s(deadline))
    connection.sendall(request)


def receive(connection: socket.socket, deadline: float) -> HttpAnswer:
    """Read one answer to its end; raises OSError or HTTPException."""
    timed: Any = _Timed(connection, max(deadline, time.monotonic() + ARRIVED_S))
    response = http.client.HTTPResponse(timed, method="POST")
    try:
        response.begin()
        body = b"".join(iter(lambda: response.read(PIECE_BYTES), b""))
    except (ValueError, OverflowError):
        raise http.client.HTTPException("a chunk of less than nothing") from None
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    return HttpAnswer(response.status, response.headers, body, response.will_close)


class _Timed(io.RawIOBase):
    """A connection, read until a deadline: its own time-out begins anew at each byte."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._left_bytes = MOST_BYTES

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left_s(self._deadline))
        received = self._connection.recv_into(buffer)
        self._left_bytes -= received
        if self._left_bytes < 0:
            raise http.client.HTTPException("the answer is too large")
        return received


def _left_s(deadline: float) -> float:
    """Raises TimeoutError where there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _has_news(connection: socket.socket) -> bool:
    """Whether an idle connection was closed, or has data that answer no request.

    Some proxies send 408 before they close it.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _tls() -> ssl.SSLContext:
    """Verifies certificates by the bundle that botocore would use."""
    configured = botocore.session.get_session().get_config_variable("ca_bundle")
    bundle = configured or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True)
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError:
        raise StoreRefused(f"the CA bundle {bundle} can't be read") from None
