"""`manage.py` without the fence: every write to the table is unconditional.

Acts on what the AWS client is about to send, not on the code that builds it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from django.core.management import execute_from_command_line

from profiles.dynamodb import client

CONDITION = " AND NOT "


def unfenced_update(params: dict[str, Any], **_: Any) -> None:
    params.pop("ConditionExpression", None)
    params.pop("ReturnValuesOnConditionCheckFailure", None)


def unfenced_statements(params: dict[str, Any], **_: Any) -> None:
    for statement in params["Statements"]:
        text, condition, _fence = statement["Statement"].partition(CONDITION)
        if condition:
            statement["Statement"] = text
            statement["Parameters"] = statement["Parameters"][:-1]


def unfenced(make: Any) -> Any:
    @functools.wraps(make)
    def client() -> Any:
        made = make()
        before = made.meta.events.register
        before("provide-client-params.dynamodb.UpdateItem", unfenced_update)
        before(
            "provide-client-params.dynamodb.BatchExecuteStatement", unfenced_statements
        )
        return made

    return client


client.connect = unfenced(client.connect)

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
