"""The answer: what DynamoDB's HTTP answer proves.

In: status, headers and body. Out: a JSON object, or one response per statement, or the
error that botocore would raise. What stands between may answer in DynamoDB's place, or
cut its answer: a write is applied when the answer proves it.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

MEDIA_TYPE = "application/x-amz-json-1.0"


Item = dict[str, dict[str, Any]]


class Refusal(msgspec.Struct, rename="pascal"):
    """Why a statement was refused, with the item as it is where DynamoDB returns it."""

    code: str
    message: str = ""
    item: Item = {}

    def __repr__(self) -> str:
        return f"Refusal({self.code})"


class Response(msgspec.Struct, rename="pascal"):
    """What became of one statement."""

    error: Refusal | None = None


class Batch(msgspec.Struct, rename="pascal"):
    """The answer to BatchExecuteStatement."""

    responses: list[Response]

    def of(self, statements: int) -> list[Response]:
        """One per statement, in their order; raises AnswerInvalid."""
        if len(self.responses) != statements:
            raise AnswerInvalid(why="it has not one response per statement")
        return self.responses


class _Table(msgspec.Struct, rename="pascal"):
    table: dict[str, Any]


class _One(msgspec.Struct, rename="pascal"):
    item: Item = {}

    def __repr__(self) -> str:
        return "_One()"


class _Page(msgspec.Struct, rename="pascal"):
    items: list[Item]
    last_evaluated_key: Item = {}

    def __repr__(self) -> str:
        return f"_Page({len(self.items)} items)"


_FORMS: dict[str, Any] = {
    "BatchExecuteStatement": Batch,
    "DescribeTable": _Table,
    "GetItem": _One,
    "Scan": _Page,
}


_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class AnswerInvalid(BotoCoreError):
    """An answer that DynamoDB has not given, or not as it has arrived."""

    fmt = "the answer is no answer of DynamoDB: {why}"


def read_answer(
    operation: str, content_type: str | None, checksum: str | None, body: bytes
) -> Any:
    """The object of an answer with status 200; raises AnswerInvalid."""
    if (content_type or "").partition(";")[0] != MEDIA_TYPE:
        raise AnswerInvalid(why=f"its content type is not {MEDIA_TYPE}")
    if checksum is not None and checksum != str(zlib.crc32(body)):
        raise AnswerInvalid(why="its checksum is wrong")
    try:
        form = _FORMS.get(operation, dict[str, Any])
        return msgspec.json.decode(body, type=form)
    except _NOT_JSON:
        why = f"it is no JSON object of {operation}"
        raise AnswerInvalid(why=why) from None


def read_error(status: int, body: bytes, operation: str) -> ClientError:
    """The error of an answer with another status; without a code, its status is it."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any])
    except _NOT_JSON:
        error = {}
    code = str(error.get("__type", status)).partition(":")[0].rpartition("#")[2]
    message = str(error.get("message", error.get("Message", "")))
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)
