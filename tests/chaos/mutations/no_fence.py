"""`manage.py` without the fence: every write to the table is unconditional.

Acts on what is about to be sent, not on the code that builds it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from django.core.management import execute_from_command_line

from profiles.dynamodb import client, wire

CONDITION = " AND NOT "


def unfenced_update(params: dict[str, Any], **_: Any) -> None:
    params.pop("ConditionExpression", None)
    params.pop("ReturnValuesOnConditionCheckFailure", None)


def unfenced_statement(statement: Any) -> Any:
    text, condition, _fence = statement["Statement"].partition(CONDITION)
    if not condition:
        return statement
    parameters = statement["Parameters"][:-1]
    return {**statement, "Statement": text, "Parameters": parameters}


def unfenced_run(run: Any) -> Any:
    def unfenced(self: Any, next_call: Any) -> Any:
        def next_unfenced() -> Any:
            call = next_call()
            return call and (call[0], [*map(unfenced_statement, call[1])])

        return run(self, next_unfenced)

    return unfenced


def unfenced(make: Any) -> Any:
    @functools.wraps(make)
    def client() -> Any:
        made = make()
        made.meta.events.register(
            "provide-client-params.dynamodb.UpdateItem", unfenced_update
        )
        return made

    return client


client.connect = unfenced(client.connect)
wire.LeanWire.run = unfenced_run(wire.LeanWire.run)  # type: ignore[method-assign]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
