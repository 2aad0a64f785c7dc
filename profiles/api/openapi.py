"""OpenAPI: what the API takes and answers, for programs and for people.

In: the fields' declaration and the contract. Out: decorators for the views, and the
schema that drf-spectacular serves. Handles no request.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Literal

from drf_spectacular.extensions import (
    OpenApiSerializerExtension,
    OpenApiSerializerFieldExtension,
)
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiRequest,
    OpenApiResponse,
    extend_schema,
)
from rest_framework.serializers import Serializer

from profiles.access import callers
from profiles.api import bodies, problems
from profiles.core import serializers

Schema = dict[str, Any]

TAG = ["Patient profiles"]
RECEIPT = "MfpguAxWTvabZeKzPKu0Pg.3.41"
STORED = {
    "PatientId": "1",
    "FirstName": "John",
    "LastName": "Doe",
    "UpdatedAt": "2026-11-22T10:15:30.123+00:00",
}

UPDATES = [
    {"PatientId": "1", "FirstName": "John", "Sex": None},
    {"PatientId": "2", "DateOfBirth": "1984-01-02"},
]

_WRONG = {"Shoe": ["Unknown field."]}
_RECEIPT_OF_1 = {"PatientId": "1", "Partition": 3, "Offset": 41, "Receipt": RECEIPT}
_RECEIPT_OF_2 = {
    **{"PatientId": "2", "Partition": 8, "Offset": 17},
    "Receipt": "MfpguAxWTvabZeKzPKu0Pg.8.17",
}
_REFUSED_2 = {
    "PatientId": "2",
    "Refused": "Kafka did not acknowledge the update in time",
}
_text: Schema = {"type": "string"}
_RECEIPT: Schema = {
    "type": "object",
    "required": ["PatientId", "Partition", "Offset", "Receipt"],
    "additionalProperties": False,
    "properties": {
        "PatientId": _text,
        "Partition": {"type": "integer", "minimum": 0},
        "Offset": {"type": "integer", "minimum": 0},
        "Receipt": {**_text, "description": "Proof of this update; see `?receipt=`."},
    },
    "example": _RECEIPT_OF_1,
}
_STORED: Schema = {
    "type": "object",
    "required": ["PatientId", "UpdatedAt"],
    "properties": {
        **dict.fromkeys(serializers.PatientProfile().fields, _text),
        "UpdatedAt": {**_text, "format": "date-time"},
    },
    "example": STORED,
}
_PAGE: Schema = {
    "type": "object",
    "required": ["Profiles", "Cursor"],
    "properties": {
        "Profiles": {"type": "array", "items": _STORED},
        "Cursor": {
            "type": ["string", "null"],
            "description": "Give it as `?cursor=` for the next page; null on the last.",
        },
    },
    "example": {"Profiles": [STORED], "Cursor": None},
}
_PROBLEM: Schema = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": _text,
        "title": _text,
        "status": {"type": "integer"},
        "detail": _text,
        "errors": {
            "description": "By field; or, of many updates, by `index`.",
            "type": ["object", "array"],
        },
        "updates": {
            "description": "Of many updates, which were accepted, in their order.",
            "type": "array",
        },
    },
}
"""RFC 9457."""

_MEANINGS = {
    400: (
        "Invalid; nothing was accepted.",
        "The request is invalid; see `errors`.",
    ),
    401: ("No valid token.", "Authentication credentials were not provided."),
    403: ("The token's scope is not enough.", "The token lacks the scope."),
    404: ("No such profile.", "There is nothing at this address."),
    405: ("The method is not supported.", 'Method "PUT" not allowed.'),
    406: ("Only JSON is available.", "Could not satisfy the request Accept header."),
    408: ("The body arrived too slowly.", problems.TooSlow.default_detail),
    411: (
        "A chunked body, where the server does not decode it.",
        problems.LengthRequired.default_detail,
    ),
    413: ("Over 64 KiB for one, 8 MiB or 10,000 for many.", "The body is too large."),
    415: ("Neither JSON nor NDJSON.", 'Unsupported media type "text/plain".'),
    429: ("Too many requests: see `Retry-After`.", "Request was throttled."),
    503: (
        "Kafka or DynamoDB does not answer: see `Retry-After`. A posted update is on the "
        "topic zero times or once; send it again.",
        "Kafka does not answer. Send the update again.",
    ),
    504: (
        "The profile does not include the receipt yet.",
        str(problems.NotYetApplied.default_detail),
    ),
}


class OneOrMany(Serializer[Any]):
    """What a POST takes; for the schema alone."""


class OneOrManySchema(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """An update, or an array of them."""

    target_class = "profiles.api.openapi.OneOrMany"

    def map_serializer(self, auto_schema: AutoSchema, direction: Any) -> Schema:
        """Either; the array holds as many as are read."""
        one = auto_schema.resolve_serializer(serializers.PatientProfile, direction).ref
        many = {"type": "array", "items": one, "minItems": 1, "maxItems": bodies.MANY}
        return {"oneOf": [one, many]}


class WordsSchema(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """A field of few words, of one or the other kind, or a flag."""

    target_class = "profiles.core.serializers.OneOfField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> Schema:
        """The words, and for a flag the JSON booleans."""
        words = list(self.target.words)
        if isinstance(self.target, serializers.FlagField):
            text = {"type": "string", "enum": words}
            return {"oneOf": [{"type": "boolean"}, text]}
        return {"type": "string", "enum": [*words, None]}  # null is added to the type


class DateSchema(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """A date: a year, a month or a day."""

    target_class = "profiles.core.serializers.DateField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> Schema:
        """FHIR's `date`; `format: date` would be a day only."""
        return {
            "type": "string",
            "pattern": "^[0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?$",
            "description": "YYYY-MM-DD, YYYY-MM or YYYY; not in the future.",
        }


class PatientIdSchema(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """The PatientId."""

    target_class = "profiles.core.serializers.PatientIdField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> Schema:
        """A string, or an integer that is taken as its string."""
        most = self.target.max_length
        return {"type": ["string", "integer"], "minLength": 1, "maxLength": most}


def _problems(*statuses: int, **told: list[OpenApiExample]) -> dict[Any, Any]:
    """The refusals of an operation; `told`, as `of_503`, has examples of its own."""
    return {
        (status, problems.CONTENT_TYPE): OpenApiResponse(
            _PROBLEM,
            _MEANINGS[status][0],
            told.get(f"of_{status}") or [_problem(status)],
        )
        for status in statuses
    }


def _problem(
    status: int, detail: str = "", name: str = "", **members: object
) -> OpenApiExample:
    title = HTTPStatus(status).phrase
    detail = detail or str(_MEANINGS[status][1])
    value = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return OpenApiExample(name or title, {**value, **members})


def _answered(
    name: str, told: str, *statuses: int, schema: Schema | None = None
) -> Any:
    """A header of these answers."""
    return OpenApiParameter(
        name, schema or _text, "header", description=told, response=[*statuses]
    )


def _bearer(scope: str) -> Any:
    return [{"bearer": [scope]}]


def _parameter(
    name: str, schema: Schema, told: str, where: Literal["query", "header"] = "query"
) -> Any:
    return OpenApiParameter(name, schema, where, description=told)


_WAIT: Schema = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
_SECONDS: Schema = {"type": "integer", "minimum": 1}
_READING = (401, 403, 404, 406, 429, 503)
_STORE_AWAY = _problem(503, "DynamoDB does not answer (ConnectTimeoutError).")
_LATER = _answered("Retry-After", "Seconds.", 429, 503, schema=_SECONDS)
_ETAG = _answered("ETag", "The profile's version; see `If-None-Match`.", 200, 304)

posted = extend_schema(
    operation_id="update_profiles",
    tags=TAG,
    auth=_bearer(callers.WRITE),
    summary="Update one profile, or many",
    description=(
        "Only the given fields change; null removes one; an absent one is kept. An "
        "array, or newline-delimited JSON, carries up to 10,000 updates: all are "
        "validated before any is accepted."
    ),
    parameters=[
        _parameter(
            "Prefer",
            _text,
            "`wait=N`: answer 200 with the profile once it includes the update, if that "
            "is within N seconds (10 at most); else 202 as without it.",
            "header",
        ),
        _answered("Location", "Of one update: where its profile is.", 202),
        _answered("Preference-Applied", "`wait=N`, as it was applied.", 200),
        _ETAG,
        _LATER,
    ],
    request={
        bodies.JSON: OpenApiRequest(
            OneOrMany,
            examples=[
                OpenApiExample("Some fields", UPDATES[0]),
                OpenApiExample("Many updates", UPDATES),
            ],
        ),
        bodies.NDJSON: OpenApiRequest(
            _text,
            examples=[
                OpenApiExample(
                    "Many updates, one a line", "\n".join(map(json.dumps, UPDATES))
                )
            ],
        ),
    },
    responses={
        (200, bodies.JSON): OpenApiResponse(_STORED, "Applied: the profile now."),
        (202, bodies.JSON): OpenApiResponse(
            {"oneOf": [_RECEIPT, {"type": "array", "items": _RECEIPT}]},
            "Durable on the topic: a receipt, or one for each update in order.",
            [
                OpenApiExample("Of one update", _RECEIPT_OF_1),
                OpenApiExample("Of many updates", [_RECEIPT_OF_1, _RECEIPT_OF_2]),
            ],
        ),
        **_problems(
            *(400, 401, 403, 406, 408, 411, 413, 415, 429, 503),
            of_400=[
                _problem(400, name="Of one update", errors=_WRONG),
                _problem(
                    400,
                    "1 update is invalid; none were accepted.",
                    "Of many updates, by index",
                    errors=[{"index": 1, "errors": _WRONG}],
                ),
            ],
            of_503=[
                _problem(503, name="Nothing was accepted"),
                _problem(
                    503,
                    "Kafka did not acknowledge every update; see `updates`. Send each "
                    "patient's updates again from the first refused one on.",
                    "Some of many were accepted",
                    updates=[_RECEIPT_OF_1, _REFUSED_2],
                ),
            ],
        ),
    },
)

listed = extend_schema(
    operation_id="list_profiles",
    tags=TAG,
    auth=_bearer(callers.READ),
    summary="Profiles, page by page",
    parameters=[
        _parameter(
            "limit", {"type": "integer", "minimum": 1, "maximum": 500}, "A page."
        ),
        _parameter("cursor", _text, "Where the page before ended."),
        _LATER,
    ],
    responses={
        (200, bodies.JSON): OpenApiResponse(_PAGE, "In the table's order."),
        **_problems(
            *(400, 401, 403, 406, 429, 503),
            of_400=[_problem(400, errors={"limit": ["Give 1 to 500."]})],
            of_503=[_STORE_AWAY],
        ),
    },
)

fetched = extend_schema(
    operation_id="get_profile",
    tags=TAG,
    auth=_bearer(callers.READ),
    summary="One profile",
    parameters=[
        OpenApiParameter("patient_id", str, "path"),
        _parameter("receipt", _text, "Only once the profile includes this receipt."),
        _parameter("wait", _WAIT, "Wait so many seconds for it, 10 at most."),
        _parameter("If-None-Match", _text, "An ETag, or several, or `*`.", "header"),
        _ETAG,
        _LATER,
    ],
    responses={
        (200, bodies.JSON): OpenApiResponse(_STORED, "The profile, and its `ETag`."),
        304: OpenApiResponse(None, "Unchanged."),
        **_problems(
            *(400, 504, *_READING),
            of_400=[_problem(400, errors={"receipt": ["Not a receipt."]})],
            of_503=[_STORE_AWAY],
        ),
    },
)
