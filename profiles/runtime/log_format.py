"""The log's format: what a line shows, and what it leaves out.

In: log records, and unhandled exceptions. Out: fewer lines, and none with the text of
an exception: it may quote what a client sent. Knows no profile.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
import traceback
from types import TracebackType

import msgspec

log = logging.getLogger(__name__)

REPEAT_S = 10.0
_QUERY = re.compile(r"\?\S*")


class Repeats(logging.Filter):
    """Passes a line of librdkafka once in REPEAT_S per client and kind.

    Otherwise it reports a broker that is down up to twenty times a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.args[:2] if isinstance(record.args, tuple) else record.msg
        now = time.monotonic()
        if now - self._passed.get(kind, -REPEAT_S) < REPEAT_S:
            return False
        self._passed[kind] = now
        return True


class Frames(logging.Formatter):
    """Shows an exception's frames and its type, without its text."""

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        return "" if ei[1] is None else _frames(ei[1])


class JsonLines(Frames):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["frames"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class NoQuery(logging.Filter):
    """Removes the query from the development server's lines: people search by name."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and record.args:
            line, *rest = record.args
            record.args = (_QUERY.sub("?...", str(line)), *rest)
        return True


def log_unhandled() -> None:
    """Log unhandled exceptions: the interpreter would print their text."""

    def hook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("unhandled exception", exc_info=(kind, error, trace))

    def hook_args(args: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            hook(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = hook
    sys.unraisablehook = hook_args
    threading.excepthook = hook_args


def _frames(error: BaseException) -> str:
    """Its frames, after those of its cause."""
    cause = error.__cause__ or (
        None if error.__suppress_context__ else error.__context__
    )
    lines = [*traceback.format_tb(error.__traceback__), type(error).__qualname__]
    shown = "".join(lines)
    return shown if cause is None else f"{_frames(cause)}\nthen\n{shown}"
