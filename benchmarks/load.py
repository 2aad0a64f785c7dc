"""The load: requests over kept-alive connections, as fast as they are answered.

In: an address and ready-made requests. Out: how many were answered with which status,
and how long each took. One epoll loop over raw sockets: it takes about 6 µs of CPU for a
request, no more than the same in Go, and the fastest server takes three times that.
Knows no JSON.
"""

from __future__ import annotations

import itertools
import math
import re
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

PATIENCE_S = 30.0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Load:
    """What was answered; `latencies` in seconds, sorted; `last` is the body of one."""

    seconds: float = 0.0
    answers: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    last: bytes = b""

    @property
    def answered(self) -> int:
        """How many requests have their answer."""
        return len(self.latencies)

    def latency(self, share: float) -> float:
        """The latency that this share of the requests did not exceed."""
        return self.latencies[
            min(int(share * len(self.latencies)), -1 % len(self.latencies))
        ]


def request(
    path: str, body: bytes, token: str = "", content_type: str = "application/json"
) -> bytes:
    """A POST, ready to be sent; with a bearer token, where there is one."""
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer}"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    """A GET, ready to be sent."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def run(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    most: float = math.inf,
) -> Load:
    """Send the requests again and again, one at a time on each connection.

    Sends none after so many seconds, or so many requests; what was sent is waited for.
    """
    load = Load()
    started = time.monotonic()
    to_send = _until(started + seconds, itertools.cycle(requests), most)
    with selectors.EpollSelector() as ready, ExitStack() as sockets:
        busy = {_Connection(port, ready, sockets) for _ in range(connections)}
        for connection in [*busy]:
            if not connection.send_next(to_send):
                busy.discard(connection)
        while busy:
            for key, events in ready.select(PATIENCE_S):
                connection = key.data
                if connection.is_answered(events, load) and not connection.send_next(
                    to_send
                ):
                    busy.discard(connection)
        load.seconds = time.monotonic() - started
    load.latencies.sort()
    return load


def _until(deadline: float, requests: Iterator[bytes], most: float) -> Iterator[bytes]:
    for sent, request in enumerate(requests):
        if sent >= most or time.monotonic() >= deadline:
            return
        yield request


class _Connection:
    """One connection and what is under way on it."""

    def __init__(
        self, port: int, ready: selectors.BaseSelector, sockets: ExitStack
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        sockets.enter_context(self._socket)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._ready = ready
        self._unsent = memoryview(b"")
        self._got = bytearray()
        self._body = self._whole = 0
        self._sent_at = 0.0
        ready.register(self._socket, selectors.EVENT_READ, self)

    def send_next(self, requests: Iterator[bytes]) -> bool:
        """Send the next request, if there is one."""
        request = next(requests, None)
        if request is None:
            return False
        self._got.clear()
        self._body = self._whole = 0
        self._unsent = memoryview(request)
        self._sent_at = time.monotonic()
        self._send_on()
        return True

    def _send_on(self) -> None:
        with suppress(BlockingIOError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        events = selectors.EVENT_READ
        if self._unsent:
            events |= selectors.EVENT_WRITE
        if self._ready.get_key(self._socket).events != events:
            self._ready.modify(self._socket, events, self)

    def is_answered(self, events: int, load: Load) -> bool:
        """Take what has come; whether the answer is whole."""
        if events & selectors.EVENT_WRITE:
            self._send_on()
        if not events & selectors.EVENT_READ:
            return False
        part = self._socket.recv(1 << 18)
        if not part:
            raise ConnectionError("the server has closed a connection")
        self._got += part
        if not self._is_whole():
            return False
        load.latencies.append(time.monotonic() - self._sent_at)
        load.answers[int(self._got[9:12])] += 1
        load.last = bytes(self._got[self._body :])
        return True

    def _is_whole(self) -> bool:
        if not self._whole:
            head = self._got.find(b"\r\n\r\n")
            length = _LENGTH.search(self._got, 0, head) if head > 0 else None
            if length is None:
                return False
            self._body = head + 4
            self._whole = self._body + int(length[1])
        return len(self._got) >= self._whole
