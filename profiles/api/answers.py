"""An answer: status, headers and body, for Django's response and for ASGI's messages.

In: what `posting` and Django answer. Out: the same for every server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from django.http import HttpResponse


class Answer(NamedTuple):
    """What a client gets. Headers as in PEP 3333: names and values of Latin-1."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status})"

    @classmethod
    def of(cls, response: HttpResponse) -> Answer:
        """The answer that a response of Django is."""
        return cls(response.status_code, [*response.items()], response.content)

    def response(self) -> HttpResponse:
        """The same as a response of Django."""
        response = HttpResponse(self.body, status=self.status)
        for name, value in self.headers:
            response.headers[name] = value
        return response

    def having(self, headers: Iterable[tuple[str, str]]) -> Answer:
        """The same with further headers."""
        return Answer(self.status, [*self.headers, *headers], self.body)
