"""The cursor: the page of the list that a reader is on, and the pages before it.

In: the PatientIds after which the pages so far began. Out: signed text for an address,
so that it can be reloaded and shared, and holds only what this service wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.core import signing

MOST_KEYS = 40
MOST_CHARACTERS = 1500
"""The length of an address is limited: a long cursor drops its oldest keys."""

_SALT = "profiles.pages.cursor"


class BadCursor(ValueError):
    """This service did not sign the cursor."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The keys after which pages began, oldest first; `dropped` counts earlier ones.

    Without keys it is the first page.
    """

    keys: tuple[str, ...] = ()
    dropped: int = 0

    @property
    def after(self) -> str | None:
        """The PatientId after which this page begins."""
        return self.keys[-1] if self.keys else None

    @property
    def number(self) -> int:
        """This page's number, from 1 on."""
        return len(self.keys) + self.dropped + 1

    @property
    def previous(self) -> Cursor | None:
        """The page before; None if this is the first, or if that key was dropped."""
        if not self.keys or (len(self.keys) == 1 and self.dropped):
            return None
        return Cursor(self.keys[:-1], self.dropped)

    def next(self, after: str) -> Cursor:
        """The page that begins after this key."""
        keys, dropped = (*self.keys, after), self.dropped
        while len(keys) > 1 and _is_long(keys):
            keys, dropped = keys[1:], dropped + 1
        return Cursor(keys, dropped)

    def encode(self) -> str:
        """The cursor as text; the first page's is empty."""
        if not self.keys:
            return ""
        return signing.dumps([self.dropped, *self.keys], salt=_SALT, compress=True)

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Read what `encode` wrote; raises BadCursor."""
        if not text:
            return cls()
        try:
            dropped, *keys = signing.loads(text, salt=_SALT)
        except signing.BadSignature:
            raise BadCursor("Invalid cursor.") from None
        return cls(tuple(keys), dropped)


def _is_long(keys: tuple[str, ...]) -> bool:
    return len(keys) > MOST_KEYS or sum(map(len, keys)) > MOST_CHARACTERS
