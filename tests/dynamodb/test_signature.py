"""The signature: whatever is sent, it is the one that botocore gives."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest import mock

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from profiles.dynamodb.signature import Target, sign

VISIBLE = st.characters(min_codepoint=33, max_codepoint=126)
TEXT = st.text(VISIBLE, min_size=1, max_size=40)
HOSTS = st.from_regex(r"[a-zA-Z0-9]{1,9}(\.[a-zA-Z0-9]{1,9}){0,3}", fullmatch=True)
PORTS = st.sampled_from(["", ":80", ":443", ":8000"])
PATHS = st.text(st.sampled_from("/ab~.-_%20+é:@!$&'()*,;="), max_size=20).map(
    lambda path: f"/{path}" if path else ""
)
URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https"]),
    HOSTS | st.sampled_from(["[::1]", "[fe80::1]", "127.0.0.1"]),
    PORTS,
    PATHS,
)
CREDENTIALS = st.builds(ReadOnlyCredentials, TEXT, TEXT, st.none() | TEXT, st.none())
HEADERS = st.dictionaries(
    st.from_regex(r"x-[a-z]{1,12}", fullmatch=True), TEXT, max_size=4
)


@given(URLS, HEADERS, st.binary(max_size=200), CREDENTIALS, st.integers(0, 4 * 10**9))
def test_a_request_is_signed_as_botocore_signs_it(url, headers, body, keys, now):
    at = datetime.fromtimestamp(now, UTC)
    request = AWSRequest("POST", url, headers=dict(headers), data=body)
    with mock.patch("botocore.auth.get_current_datetime", return_value=at):
        SigV4Auth(keys, "dynamodb", "eu-central-1").add_auth(request)
    target = Target.at(url, "eu-central-1")
    signed = sign(target, headers, body, keys, now)
    assert signed["authorization"] == request.headers["Authorization"]
    assert signed["x-amz-date"] == request.headers["X-Amz-Date"]
    assert signed.get("x-amz-security-token") == (keys.token)
