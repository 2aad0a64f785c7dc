"""The audit trail: who saw or changed which patient's profile, when, and from where.

In: an admitted request, and PatientIds. Out: lines of JSON on standard output, which
holds nothing else (logs go to standard error). No value of a profile.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import msgspec
from django.http import HttpRequest
from rest_framework.request import Request

from profiles.access import callers

Action = Literal["update", "view", "list"]
Waiting = Sequence[asyncio.Future[None]]

PATIENTS_PER_LINE = 50
"""Log shippers cut long lines, and a cut line is a hole in the trail."""

PIECE_BYTES = select.PIPE_BUF
"""A pipe takes so many bytes whole, also if several processes write to it."""

_encode = msgspec.json.Encoder().encode


def note(
    request: HttpRequest | Request, action: Action, patients: Sequence[str]
) -> None:
    """Write a request's lines, which name every patient, before its answer goes out.

    `logging` is not used: no level or filter may silence the trail, and a write costs
    a quarter as much (ADR 0007).
    """
    _write_each(_pieces(_lines(request, action, patients)))


class Turns:
    """The audit trail of an event loop: all lines of one turn are written together.

    Each answer waits until its lines are written. The loop writes what standard output
    takes at once. A thread writes the rest, so that a slow reader does not stop the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, "audit-trail")
        self._behind = 0  # turns that are in the thread's hands
        self._lines: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []

    async def note(
        self, request: HttpRequest, action: Action, patients: Sequence[str]
    ) -> None:
        """As the function `note`; returns once the lines are written."""
        lines = _lines(request, action, patients)
        if not lines:
            return
        if not self._lines:
            self._loop.call_soon(self._end_turn)
        self._lines += lines
        written = self._loop.create_future()  # its own: a request may be cancelled
        self._waiting.append(written)
        await written

    def _end_turn(self) -> None:
        pieces, waiting = [*_pieces(self._lines)], self._waiting
        self._lines, self._waiting = [], []
        try:
            while pieces and not self._behind and _is_writable():
                _write(pieces.pop(0))
        except Exception as error:  # not only OSError: standard output may be closed
            return _settle(waiting, error)
        if not pieces:
            return _settle(waiting, None)
        self._behind += 1
        rest = self._thread.submit(_write_each, pieces)
        rest.add_done_callback(partial(self._caught_up, waiting))

    def _caught_up(self, waiting: Waiting, rest: Future[None]) -> None:
        """Called in the thread."""
        self._loop.call_soon_threadsafe(self._end_rest, waiting, rest.exception())

    def _end_rest(self, waiting: Waiting, error: BaseException | None) -> None:
        self._behind -= 1
        _settle(waiting, error)


def _settle(waiting: Waiting, error: BaseException | None) -> None:
    for written in waiting:
        if written.done():  # its request was cancelled
            continue
        if error is not None:
            written.set_exception(error)
        else:
            written.set_result(None)


def _lines(
    request: HttpRequest | Request, action: Action, patients: Sequence[str]
) -> list[bytes]:
    """Whole lines, each of which a pipe takes whole."""
    entry: dict[str, Any] = {
        "audit": action,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": callers.caller(request).name,
        "from": callers.address(request),
        "request": request.META.get("HTTP_X_REQUEST_ID"),
    }
    lines: list[bytes] = []
    for start in range(0, len(patients), PATIENTS_PER_LINE):
        lines += _naming(entry, patients[start : start + PATIENTS_PER_LINE])
    return lines


def _naming(entry: dict[str, Any], patients: Sequence[str]) -> list[bytes]:
    """The entry with these patients: one line, or more if a pipe could cut it."""
    entry["patients"] = patients
    line = _encode(entry) + b"\n"
    if len(line) <= PIECE_BYTES or len(patients) == 1:
        return [line]
    half = len(patients) // 2
    return [*_naming(entry, patients[:half]), *_naming(entry, patients[half:])]


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Lines joined into pieces that a pipe takes whole."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)


def _write_each(pieces: Iterable[bytes]) -> None:
    """Write one piece after another: other processes may write between them."""
    for piece in pieces:
        _write(piece)


def _write(piece: bytes) -> None:
    """Write all of it. Raises OSError."""
    output = sys.stdout.fileno()
    left = memoryview(piece)
    while left:
        left = left[os.write(output, left) :]


def _is_writable() -> bool:
    """Whether standard output takes a piece without delay."""
    return bool(select.select([], [sys.stdout], [], 0)[1])
