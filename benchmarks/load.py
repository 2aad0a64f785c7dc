"""The load: requests over kept-alive connections, as fast as they are answered.

In: an address and ready-made requests. Out: how many were answered with which status,
and how long each took. One epoll loop over raw sockets: a server takes far longer for
an answer than this takes for a request. Knows no JSON.
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
from contextlib import suppress
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


def request(path: str, body: bytes, kind: str = "application/json") -> bytes:
    """A POST, ready to be sent."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
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

    Ends after so many seconds, or with the last of so many answers.
    """
    load, endless = Load(), itertools.cycle(requests)
    started = time.monotonic()
    with selectors.EpollSelector() as ready:
        open_ones = [_Connection(port, endless, ready) for _ in range(connections)]
        for connection in open_ones:
            connection.send()
        while (now := time.monotonic()) < started + seconds and load.answered < most:
            for key, events in ready.select(0.1):
                key.data.go_on(events, load)
        load.seconds = now - started
        for connection in open_ones:
            connection.socket.close()
    load.latencies.sort()
    return load


class _Connection:
    """One connection and what is under way on it."""

    def __init__(
        self, port: int, requests: Iterator[bytes], ready: selectors.BaseSelector
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._requests = requests
        self._ready = ready
        self._unsent = memoryview(b"")
        self._got = bytearray()
        self._body = self._whole = 0
        self._sent_at = 0.0
        ready.register(self.socket, selectors.EVENT_READ, self)

    def send(self) -> None:
        """Send the next request."""
        self._got.clear()
        self._body = self._whole = 0
        self._unsent = memoryview(next(self._requests))
        self._sent_at = time.monotonic()
        self._send_on()

    def _send_on(self) -> None:
        with suppress(BlockingIOError):
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        events = selectors.EVENT_READ
        if self._unsent:
            events |= selectors.EVENT_WRITE
        if self._ready.get_key(self.socket).events != events:
            self._ready.modify(self.socket, events, self)

    def go_on(self, events: int, load: Load) -> None:
        """Take what has come; once the answer is whole, send the next request."""
        if events & selectors.EVENT_WRITE:
            self._send_on()
        if not events & selectors.EVENT_READ:
            return
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionError("the server has closed a connection")
        self._got += part
        if self._is_whole():
            load.latencies.append(time.monotonic() - self._sent_at)
            load.answers[int(self._got[9:12])] += 1
            load.last = bytes(self._got[self._body :])
            self.send()

    def _is_whole(self) -> bool:
        if not self._whole:
            head = self._got.find(b"\r\n\r\n")
            length = _LENGTH.search(self._got, 0, head) if head > 0 else None
            if length is None:
                return False
            self._body = head + 4
            self._whole = self._body + int(length[1])
        return len(self._got) >= self._whole
