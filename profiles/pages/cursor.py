"""The position: where a reader of the list is, and the way back.

In: the PatientIds after which the pages so far began. Out: a signed cursor, so that an
address can be reloaded and sent on, and holds nothing but what we wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.core import signing

MOST_KEYS = 40
MOST_CHARACTERS = 1500
"""An address has limits; the way back is forgotten from its far end."""

_SALT = "profiles.pages.cursor"


class BadCursor(ValueError):
    """The cursor is not one of ours."""


@dataclass(frozen=True, slots=True)
class Position:
    """The keys that pages began after, oldest first; `forgotten` counts earlier ones.

    Without keys it is the first page.
    """

    keys: tuple[str, ...] = ()
    forgotten: int = 0

    @property
    def after(self) -> str | None:
        """The PatientId that this page begins after."""
        return self.keys[-1] if self.keys else None

    @property
    def number(self) -> int:
        """This page's number, from 1 on."""
        return len(self.keys) + self.forgotten + 1

    @property
    def previous(self) -> Position | None:
        """The page before, as far as it is remembered."""
        if not self.keys or (len(self.keys) == 1 and self.forgotten):
            return None
        return Position(self.keys[:-1], self.forgotten)

    def next(self, after: str) -> Position:
        """The page that begins after this key."""
        keys, forgotten = (*self.keys, after), self.forgotten
        while len(keys) > 1 and (
            len(keys) > MOST_KEYS or sum(map(len, keys)) > MOST_CHARACTERS
        ):
            keys, forgotten = keys[1:], forgotten + 1
        return Position(keys, forgotten)

    def cursor(self) -> str:
        """The position as text; the first page's is empty."""
        if not self.keys:
            return ""
        return signing.dumps([self.forgotten, *self.keys], salt=_SALT, compress=True)

    @classmethod
    def of(cls, cursor: str) -> Position:
        """Read what `cursor` wrote; raises BadCursor."""
        if not cursor:
            return cls()
        try:
            forgotten, *keys = signing.loads(cursor, salt=_SALT)
        except signing.BadSignature:
            raise BadCursor("The cursor is not one of ours.") from None
        return cls(tuple(keys), forgotten)
