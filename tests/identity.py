"""An identity provider: its keys, the tokens it issues, and its key set over HTTP."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://idp.example/"
AUDIENCE = "https://profiles.example/"
LOCAL_KEY = "0123456789abcdef0123456789abcdef"


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """The same key for the same name: making one takes a moment."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def claims(**changes: Any) -> dict[str, Any]:
    """What a good token says, with changes; None leaves a claim out."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "clinic-7",
        "scope": "profiles:read profiles:write",
        "iat": now,
        "exp": now + 600,
    }
    return {k: v for k, v in {**good, **changes}.items() if v is not None}


def token(key: Any = None, alg: str = "RS256", kid: str = "first", **changes: Any):
    """A token of the provider's first key, unless told otherwise."""
    return jwt.encode(
        claims(**changes), key or rsa_key("first"), alg, headers={"kid": kid}
    )


def local_token(**changes: Any) -> str:
    return jwt.encode(claims(**changes), LOCAL_KEY, "HS256")


def unsigned(**changes: Any) -> str:
    """A token that says `alg: none`."""
    return jwt.encode(claims(**changes), "", "none", headers={"kid": "first"})


def tampered(good: str, **changes: Any) -> str:
    """The token with other claims under the old signature."""
    head, _, signature = good.split(".")
    body = urlsafe_b64encode(json.dumps(claims(**changes)).encode()).rstrip(b"=")
    return f"{head}.{body.decode()}.{signature}"


class Provider:
    """What the provider publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"first": rsa_key("first")}
        self.asked = 0
        self.answer: bytes | None = None
        self.url = ""

    def key_set(self) -> bytes:
        keys = [{**_public(key), "kid": kid} for kid, key in self.keys.items()]
        return json.dumps({"keys": keys}).encode()


def _public(key: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "use": "sig"}
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "use": "sig"}


@contextmanager
def serving() -> Iterator[Provider]:
    """A provider that answers on a free port."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked += 1
            body = provider.key_set() if provider.answer is None else provider.answer
            self.send_response(200 if body else 503)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,)).start()
    provider.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
