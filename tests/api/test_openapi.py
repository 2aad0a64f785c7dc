"""The contract: what is told of the API is what it does."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from django.test import Client

from profiles.access import callers
from profiles.api import bodies, problems, views
from profiles.core import serializers
from tests import stack


@pytest.fixture
def schema() -> Any:
    return Client().get("/api/schema", headers={"accept": "application/json"}).json()


def test_the_schema_is_openapi_3_1_and_needs_no_token(schema, settings):
    assert schema["openapi"].startswith("3.1")
    settings.DEVELOPMENT = False
    assert Client().get("/api/schema").status_code == 200


def test_every_field_is_told_with_its_limit(schema):
    told = schema["components"]["schemas"]["PatientProfile"]
    assert told["properties"].keys() == serializers.PatientProfile().fields.keys()
    assert told["required"] == ["PatientId"]
    assert told["properties"]["FirstName"]["maxLength"] == 100
    assert "Female" in told["properties"]["Sex"]["enum"]
    pattern = told["properties"]["DateOfBirth"]["pattern"]
    for born in ("1984", "1984-02", "1984-02-29", "1984-13", "1984-1-1", "1984-02-32"):
        assert bool(re.search(pattern, born)) == bool(serializers.date_of(born))


READING = {"200", "400", "401", "403", "406", "429", "503"}
ANSWERS = {
    "update_profiles": {*READING, "202", "408", "411", "413", "415"},
    "list_profiles": READING,
    "get_profile": {*READING, "304", "404", "504"},
}
operations = pytest.mark.parametrize("operation", ANSWERS)


@pytest.fixture
def told(schema, operation) -> Any:
    """What is told of an operation."""
    [found] = [
        each
        for path in schema["paths"].values()
        for each in path.values()
        if each["operationId"] == operation
    ]
    return found


@operations
def test_every_answer_is_told_with_an_example(told, operation):
    assert told["responses"].keys() == ANSWERS[operation]
    for status, answer in told["responses"].items():
        if status == "304":  # it has no body
            continue
        for media in answer["content"].values():
            assert examples(media), status


@operations
def test_every_example_is_what_its_schema_says(schema, told):
    answers = told["responses"].values()
    contents = [answer["content"] for answer in answers if "content" in answer]
    contents += [told["requestBody"]["content"]] if "requestBody" in told else []
    for media in (media for content in contents for media in content.values()):
        form = {**media["schema"], "components": schema["components"]}
        for example in examples(media):
            jsonschema.validate(example, form, jsonschema.Draft202012Validator)


def examples(media: Any) -> list[Any]:
    named = [each["value"] for each in media.get("examples", {}).values()]
    return named or [media["schema"]["example"]]


@pytest.mark.parametrize("operation", ["update_profiles"])
def test_one_update_or_an_array_of_them_is_taken(schema, told):
    content = told["requestBody"]["content"]
    name = content[bodies.JSON]["schema"]["$ref"].rpartition("/")[2]
    one, many = schema["components"]["schemas"][name]["oneOf"]
    assert one == many["items"]
    assert (many["type"], many["minItems"], many["maxItems"]) == ("array", 1, 10_000)
    single, array = examples(content[bodies.JSON])
    [lines] = examples(content[bodies.NDJSON])
    assert [json.loads(line) for line in lines.splitlines()] == array
    for update in (single, *array):
        text = json.dumps(update).encode()
        assert serializers.parse(text).patient_id == update["PatientId"]


@pytest.mark.parametrize("operation", ["update_profiles"])
def test_what_went_wrong_with_some_of_many_is_shown(told):
    answers = {
        status: examples(told["responses"][status]["content"][problems.CONTENT_TYPE])
        for status in ("400", "503")
    }
    assert [type(each["errors"]) for each in answers["400"]] == [dict, list]
    assert ["Refused" in str(each.get("updates")) for each in answers["503"]] == [
        False,
        True,
    ]


@operations
def test_an_operation_takes_a_bearer_token_with_its_scope(schema, told, operation):
    [scheme] = schema["components"]["securitySchemes"]
    kind = schema["components"]["securitySchemes"][scheme]
    assert (kind["type"], kind["scheme"]) == ("http", "bearer")
    scope = callers.WRITE if operation == "update_profiles" else callers.READ
    assert told["security"] == [{scheme: [scope]}]


HEADERS = {
    "update_profiles": {
        "200": {"ETag", "Preference-Applied"},
        "202": {"Location"},
        "429": {"Retry-After"},
        "503": {"Retry-After"},
    },
    "list_profiles": {"429": {"Retry-After"}, "503": {"Retry-After"}},
    "get_profile": {
        "200": {"ETag"},
        "304": {"ETag"},
        "429": {"Retry-After"},
        "503": {"Retry-After"},
    },
}


@operations
def test_the_headers_of_an_answer_are_told(told, operation):
    assert {
        status: {*answer["headers"]}
        for status, answer in told["responses"].items()
        if "headers" in answer
    } == HEADERS[operation]


def test_the_page_and_what_it_loads_is_from_here():
    page = Client().get("/api/docs").content.decode()
    assert "swagger-ui" in page
    assert "//cdn" not in page
    assert "https://" not in page


def test_the_longest_wait_is_told(schema):
    told = f"{views.MOST_WAIT_S} at most"
    for path, method in (("", "post"), ("/{patient_id}", "get")):
        operation = schema["paths"][f"/patientprofile{path}"][method]
        assert told in str(operation["parameters"])
    assert f"({told})" in (stack.ROOT / "docs/http.md").read_text()
