"""The answer: what DynamoDB's HTTP answer proves.

In: status, headers and body. Out: a JSON object, or one response per statement, or the
error that botocore would raise. What stands between may answer in DynamoDB's place, or
cut its answer: a write is applied when the answer proves it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

MEDIA_TYPE = "application/x-amz-json-1.0"


class Refusal(msgspec.Struct, rename="pascal"):
    """Why a statement was refused, with the item as it is where DynamoDB returns it."""

    code: str
    message: str = ""
    item: dict[str, dict[str, Any]] = {}


class Response(msgspec.Struct, rename="pascal"):
    """What became of one statement."""

    error: Refusal | None = None


class AnswerInvalid(BotoCoreError):
    """An answer that DynamoDB has not given, or not as it has arrived."""

    fmt = "the answer is no answer of DynamoDB: {why}"


def read_answer(
    content_type: str | None, checksum: str | None, body: bytes
) -> dict[str, Any]:
    """The JSON object of an answer with status 200; raises AnswerInvalid."""
    if (content_type or "").partition(";")[0] != MEDIA_TYPE:
        raise AnswerInvalid(why=f"its content type is not {MEDIA_TYPE}")
    if checksum is not None and checksum != str(zlib.crc32(body)):
        raise AnswerInvalid(why="its checksum is wrong")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise AnswerInvalid(why="it is no JSON object") from None


def read_responses(answer: Mapping[str, Any], statements: int) -> list[Response]:
    """One response per statement, in their order; raises AnswerInvalid."""
    try:
        responses = msgspec.convert(answer.get("Responses"), list[Response])
    except msgspec.ValidationError:
        responses = []
    if len(responses) != statements:
        raise AnswerInvalid(why="it has not one response per statement")
    return responses


def read_error(status: int, body: bytes, operation: str) -> ClientError:
    """The error of an answer with another status; without a code, its status is it."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = {}
    code = str(error.get("__type", status)).partition(":")[0].rpartition("#")[2]
    message = str(error.get("message", error.get("Message", "")))
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)
