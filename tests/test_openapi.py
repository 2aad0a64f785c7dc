"""The contract: what is told of the API is what it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from django.test import Client

from profiles import serializers, views
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
    assert told["properties"]["DateOfBirth"]["format"] == "date"


def test_every_answer_of_the_contract_is_told_with_an_example(schema):
    answers = schema["paths"]["/patientprofile"]["post"]["responses"]
    assert {*answers} == {
        *("200", "202", "400", "401", "403", "406", "411", "413", "415", "429", "503")
    }
    for status, answer in answers.items():
        for media in answer["content"].values():
            assert "example" in str(media), status


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
    assert f"({told})" in (stack.ROOT / "README.md").read_text()


@pytest.mark.stack
def test_schemathesis_finds_no_undocumented_answer(tmp_path: Path):
    """No 5xx is documented but 503 and 504; a POST here meets neither."""
    with (
        stack.embedded(tmp_path) as engines,
        engines.web() as web,
        engines.member(),
    ):
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run"),
                f"{web.url}/api/schema",
                *("--checks", "status_code_conformance"),
                *("--checks", "content_type_conformance,response_schema_conformance"),
                *("--request-timeout", "40"),
                *("--max-examples", "40", "--seed", "1", "--no-color"),
                *("--phases", "examples,coverage,fuzzing"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        figures = requests.get(f"{web.url}/metrics", timeout=10).text
        web.stop()
    sys.stdout.write(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-6000:]
    assert 'profile_requests_refused_total{status="4' in figures
    assert 'profile_requests_refused_total{status="5' not in figures
