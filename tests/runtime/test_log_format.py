"""Telemetry: what the log tells of an exception, and of a request."""

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


def test_an_exception_is_told_by_its_frames_and_type():
    told = Frames("%(message)s").format(record(caught(lambda: refuse(CANARY))))
    assert told.startswith("it failed\n")
    assert "in refuse" in told
    assert told.endswith("ValueError")
    assert CANARY not in told


def test_what_led_to_it_is_told_first():
    def chained() -> None:
        try:
            refuse(CANARY)
        except ValueError as error:
            raise LookupError(CANARY) from error

    told = Frames().format(record(caught(chained)))
    assert told.index("ValueError") < told.index("LookupError")
    assert CANARY not in told


def test_what_was_replaced_on_purpose_is_not_told():
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
    told = json.loads(line)
    assert told.keys() == {"time", "level", "logger", "message", "frames"}
    assert (told["level"], told["logger"]) == ("ERROR", "x")
    assert told["message"] == "it failed"
    assert told["frames"].endswith("ValueError")


NOBODY_CATCHES = {
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


@pytest.mark.parametrize("where", NOBODY_CATCHES)
def test_what_nobody_catches_is_told_without_its_text(where):
    program = f"import sys, django; django.setup(); secret = sys.argv[1]\n{NOBODY_CATCHES[where]}"
    ended = subprocess.run(
        [sys.executable, "-c", program, CANARY],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "CRITICAL profiles.runtime.log_format nobody caught it" in ended.stderr
    assert "ValueError" in ended.stderr
    assert CANARY not in ended.stderr + ended.stdout
    assert (ended.returncode != 0) == (where == "main")


def test_the_development_server_tells_no_query():
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
