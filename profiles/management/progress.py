"""A progress bar on a terminal; elsewhere nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")
WIDTH = 30
EVERY_S = 0.5


class Progress:
    """One line that is drawn anew now and then."""

    def __init__(self, stream: TextIO, total: int, what: str) -> None:
        self._stream = stream
        self._total = total
        self._what = what
        self._shown = stream.isatty()
        self._drawn_at = 0.0

    def along(self, things: Iterable[T]) -> Iterator[T]:
        """Hand the things on, and count them."""
        for number, thing in enumerate(things):
            if self._is_due():
                self._draw(number)
            yield thing
        self.wipe()

    def show(self, done: Callable[[], int]) -> None:
        """Draw, if it is time to; `done` is asked only then."""
        if self._is_due():
            self._draw(min(done(), self._total))

    def wipe(self) -> None:
        """Leave the line empty, for what is to be said next."""
        if self._shown:
            self._write("")

    def _is_due(self) -> bool:
        return self._shown and time.monotonic() - self._drawn_at > EVERY_S

    def _draw(self, done: int) -> None:
        self._drawn_at = time.monotonic()
        part = done / self._total if self._total else 1.0
        bar = "#" * int(part * WIDTH)
        self._write(
            f"[{bar:<{WIDTH}}] {part:4.0%}  {done:,} of {self._total:,} {self._what}"
        )

    def _write(self, line: str) -> None:
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
