"""The log's format: what a line shows of an exception, and of a request."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from profiles.runtime.log_format import Frames, JsonLines, NoQuery

CANARY = "Canary"


def refuse(value: str) -> None:
    raise ValueError(f"{value} is no number")


def record(error: BaseException) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__)
    return logging.LogRecord("x", logging.ERROR, "x", 1, "it failed", None, info)


def caught(how) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 any will do
        how()
    return raised.value


def test_an_exception_is_logged_with_its_frames_and_type():
    shown = Frames("%(message)s").format(record(caught(lambda: refuse(CANARY))))
    assert shown.startswith("it failed\n")
    assert "in refuse" in shown
    assert shown.endswith("ValueError")
    assert CANARY not in shown


def test_its_cause_is_logged_first():
    def chained() -> None:
        try:
            refuse(CANARY)
        except ValueError as error:
            raise LookupError(CANARY) from error

    shown = Frames().format(record(caught(chained)))
    assert shown.index("ValueError") < shown.index("LookupError")
    assert CANARY not in shown


def test_an_exception_that_was_replaced_on_purpose_is_not_logged():
    def replaced() -> None:
        try:
            refuse(CANARY)
        except ValueError:
            raise LookupError(CANARY) from None

    assert "ValueError" not in Frames().format(record(caught(replaced)))


def test_a_line_of_production_is_one_json_object():
    line = JsonLines().format(record(caught(lambda: refuse(f"{CANARY}\n"))))
    assert "\n" not in line
    assert CANARY not in line
    shown = json.loads(line)
    assert shown.keys() == {"time", "level", "logger", "message", "frames"}
    assert (shown["level"], shown["logger"]) == ("ERROR", "x")
    assert shown["message"] == "it failed"
    assert shown["frames"].endswith("ValueError")


UNHANDLED = {
    "main": "raise ValueError(secret)",
    "thread": """
import threading
thread = threading.Thread(target=lambda: int(secret))
thread.start(); thread.join()
""",
    "destructor": """
class Falls:
    def __del__(self): raise ValueError(secret)
Falls()
""",
}


@pytest.mark.parametrize("where", UNHANDLED)
def test_an_unhandled_exception_is_logged_without_its_text(where):
    program = (
        f"import sys, django; django.setup(); secret = sys.argv[1]\n{UNHANDLED[where]}"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, CANARY],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "CRITICAL profiles.runtime.log_format unhandled exception" in ended.stderr
    assert "ValueError" in ended.stderr
    assert CANARY not in ended.stderr + ended.stdout
    assert (ended.returncode != 0) == (where == "main")


def test_the_development_server_logs_no_query():
    line = logging.LogRecord(
        "x",
        20,
        "x",
        1,
        '"%s" %s %s',
        ("GET /profiles/?q=Canary HTTP/1.1", "200", "9"),
        None,
    )
    assert NoQuery().filter(line)
    assert line.getMessage() == '"GET /profiles/?... HTTP/1.1" 200 9'
