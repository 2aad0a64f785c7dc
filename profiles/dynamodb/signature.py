"""AWS Signature Version 4, for a POST of JSON to DynamoDB.

In: where it goes, what it does, its body, the credentials, and the time. Out: its
headers. A test holds them equal to botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from botocore.utils import normalize_url_path

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

ALGORITHM = "AWS4-HMAC-SHA256"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: host as the header names it, path, and its canonical form."""

    host: str
    path: str
    canonical: str
    region: str

    @classmethod
    def at(cls, url: str, region: str) -> Target:
        """Of an endpoint's URL, which may have a port and a path."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        if parts.port not in (None, _PORTS.get(parts.scheme)):
            host = f"{host}:{parts.port}"
        path = parts.path or "/"
        return cls(host, path, quote(normalize_url_path(path), safe="/~"), region)


def sign(
    target: Target,
    headers: dict[str, str],
    body: bytes,
    credentials: ReadOnlyCredentials,
    now: float,
) -> dict[str, str]:
    """The headers, and those that sign them; `headers` are lower-case names.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    signed = {**headers, "host": target.host, "x-amz-date": moment}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    request = f"POST\n{target.canonical}\n\n{lines}\n{names}\n{_hash(body)}"
    scope = f"{moment[:8]}/{target.region}/dynamodb/aws4_request"
    text = f"{ALGORITHM}\n{moment}\n{scope}\n{_hash(request.encode())}"
    key = b"AWS4" + str(credentials.secret_key).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return signed


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
