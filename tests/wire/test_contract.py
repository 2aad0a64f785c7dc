"""The contract over the wire: every answer is one that the API's description has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests import identity, stack

pytestmark = pytest.mark.stack


def test_schemathesis_finds_no_undocumented_answer(tmp_path: Path):
    """The only documented 5xx are 503 and 504, and with these engines neither occurs."""
    known = {
        "JWT_ISSUER": identity.ISSUER,
        "JWT_AUDIENCE": identity.AUDIENCE,
        "JWT_LOCAL_KEY": identity.LOCAL_KEY,
    }
    token = identity.local_token()
    with (
        stack.embedded(tmp_path) as engines,
        stack.Web(tmp_path, {**engines.environ, **known}) as web,
        engines.member(),
    ):
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run"),
                f"{web.url}/api/schema",
                *("--checks", "status_code_conformance"),
                *("--checks", "content_type_conformance,response_schema_conformance"),
                *("--header", f"Authorization: Bearer {token}"),
                *("--request-timeout", "40"),
                *("--max-examples", "40", "--seed", "1", "--no-color"),
                *("--phases", "examples,coverage,fuzzing"),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(stack.ROOT),
                "SCHEMATHESIS_HOOKS": "tests.lines",
            },
            capture_output=True,
            text=True,
            timeout=240,
        )
        figures = requests.get(f"{web.url}/metrics", timeout=10).text
        web.stop()
    sys.stdout.write(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Authentication failed" not in done.stdout
    assert 'profile_requests_refused_total{status="4' in figures
    assert 'profile_requests_refused_total{status="5' not in figures
