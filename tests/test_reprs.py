"""No repr shows a value of a profile: an exception or a log line may hold one."""

from __future__ import annotations

from typing import Any

import pytest

from profiles.api.answers import Answer
from profiles.api.bodies import Body
from profiles.core import serializers
from profiles.core.records import DeadLetter, InvalidRecord
from profiles.dynamodb.answers import Refusal, Response, read_answer
from profiles.dynamodb.connections import HttpAnswer
from profiles.dynamodb.reader import Page
from profiles.dynamodb.wire import _exchange
from profiles.pages.browse import Query
from profiles.pages.cursor import Cursor
from profiles.pages.timeline import Entry, Fate
from tests.fakes import record_of, update_at

VALUE = "Secret"
ITEM: Any = {"PatientId": {"S": "1"}, "FirstName": {"S": VALUE}}
BODY = b'{"PatientId": "1", "FirstName": "Secret"}'
REFUSAL = Refusal("ConditionalCheckFailed", VALUE, ITEM)
LETTER = DeadLetter(record_of(BODY), InvalidRecord("not_json", "it is not JSON"))
RECEIPT: Any = None
SCAN = b'{"Items": [{"FirstName": {"S": "Secret"}}]}'
GOT = b'{"Item": {"FirstName": {"S": "Secret"}}}'
JSON = "application/x-amz-json-1.0"
[PROFILE] = serializers._fast.read(BODY) or [None]

HOLDERS = [
    Body(BODY, "object"),
    Answer(200, [("Content-Type", "application/json")], BODY),
    PROFILE,
    update_at(0, FirstName=VALUE),
    LETTER,
    Page([ITEM], None, 1),
    Query("", VALUE, "", Cursor()),
    Entry(RECEIPT, 0, Fate.APPLIED, {"FirstName": VALUE}),
    REFUSAL,
    Response(REFUSAL),
    read_answer("Scan", JSON, None, SCAN),
    read_answer("GetItem", JSON, None, GOT),
    HttpAnswer(200, {}, BODY, False),  # type: ignore[arg-type]
    _exchange(0, [{"Statement": "UPDATE", "Parameters": [{"S": VALUE}]}]),
]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda each: type(each).__name__)
def test_what_holds_a_value_shows_none(holder):
    assert VALUE not in repr(holder)
