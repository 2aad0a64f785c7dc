"""Faults: a value `fall:<name>` makes the function of that name raise, quoting it all.

Stands for whatever breaks one day inside our code, or in a library that tells in its
exception what it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from botocore.client import BaseClient
from botocore.exceptions import ClientError
from django.apps import AppConfig

from profiles.core import items, serializers
from profiles.dynamodb.wire import LeanWire
from profiles.kafka.producer import Publisher


class CanaryConfig(AppConfig):
    """Breaks the product on demand."""

    name = "tests.canary"

    def ready(self) -> None:
        _fall(serializers, "parse", lambda given: given[0])
        _fall(serializers, "parse_array", lambda given: given[0])
        _fall(serializers, "decode", lambda given: given[0].value)
        _fall(items, "profile", lambda given: given[0])
        _fall(Publisher, "publish_all", lambda given: [u.value for u in given[1]])
        # What the front calls in their place.
        _fall(serializers, "parse_at_once", lambda given: given[0], fault="parse")
        _fall(
            Publisher,
            "publish_awaited",
            lambda given: [u.value for u in given[1]],
            fault="publish_all",
        )
        _fall(BaseClient, "_make_api_call", lambda given: given[2], _quoting)
        _answer_quoting()


def _fall(
    owner: Any,
    name: str,
    told: Callable[[Any], object],
    error: Callable[[str], Exception] = RuntimeError,
    fault: str = "",
) -> None:
    sound = getattr(owner, name)

    @wraps(sound)
    def falls(*given: Any) -> Any:
        if f"fall:{fault or name}" in (text := str(told(given))):
            raise error(text)
        return sound(*given)

    setattr(owner, name, falls)


def _answer_quoting() -> None:
    """What the consumer's own wire is answered, as botocore raises it."""
    sound = LeanWire._receive

    def receive(wire: LeanWire, exchange: Any) -> Any:
        answer = sound(wire, exchange)
        text = exchange.body.decode()
        return _quoting(text) if "fall:_make_api_call" in text else answer

    LeanWire._receive = receive  # type: ignore[assignment, method-assign]


def _quoting(text: str) -> ClientError:
    """As DynamoDB answers, which may quote the statement and its parameters."""
    problem = {"Code": "ValidationException", "Message": f"Invalid: {text}"}
    answer: Any = {"Error": problem, "ResponseMetadata": {"HTTPStatusCode": 400}}
    return ClientError(answer, "UpdateItem")
