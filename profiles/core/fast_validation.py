"""Fast validation: accepts ordinary updates in compiled code.

In: the JSON text of one update, of an array, or of one update a line. Out: profiles
that the exact validation would accept too, and their records; or None if only the exact
validation can decide. It never refuses. Knows only one field by name: PatientId.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from profiles.core.records import ProducerRecord

Form = Literal["object", "array", "lines"]

_ESCAPED = b"\\\x7f\xc2"
"""In JSON without these bytes, no value holds a control character or a quote: C0 and
quotes are escaped with a backslash, DEL is 7F, and C1 begins with C2."""

_QUOTE = b"\\u0022"


class Field(NamedTuple):
    """What a field accepts: msgspec checks the type, and Python the rest."""

    type: Any
    is_clean: Callable[[str], object]
    """False for a forbidden control character."""

    text_of: Callable[[Any], str | None] | None = None
    """The text that is stored; None where only the exact validation can decide."""


class Reader:
    """Reads profiles of these fields. The profiles are structs; their values are text,
    None, or UNSET if a field was not supplied.
    """

    def __init__(self, fields: Mapping[str, Field]) -> None:
        others = [name for name in fields if name != "PatientId"]
        profile: Any = msgspec.defstruct(
            "Profile",
            [
                ("PatientId", fields["PatientId"].type),
                *(
                    (name, fields[name].type | None | UnsetType, UNSET)
                    for name in others
                ),
            ],
            namespace={"__repr__": lambda profile: "Profile()"},
            forbid_unknown_fields=True,
            gc=False,
        )
        one = msgspec.json.Decoder(profile)
        self._decoders: dict[Form, Callable[[bytes], list[Any]]] = {
            "object": lambda text: [one.decode(text)],
            "array": msgspec.json.Decoder(list[profile]).decode,
            "lines": one.decode_lines,
        }
        self._encode = msgspec.json.Encoder().encode_lines
        self._is_clean = [(name, field.is_clean) for name, field in fields.items()]
        self._text_of = [(n, f.text_of) for n, f in fields.items() if f.text_of]

    def read(
        self, text: bytes, form: Form = "object", most: int = 1
    ) -> list[Any] | None:
        """The profiles of a text; None, too, if it may hold more than `most`."""
        profiles = self._decode(text, form, most)
        if profiles is None:
            return None
        lines = self._encode(profiles)
        if text.count(b'"') != lines.count(b'"'):
            return None  # a duplicate name: only its last value was decoded
        if not self._become_text(profiles):
            return None
        if lines.translate(None, _ESCAPED) == lines:
            return profiles
        return profiles if self._are_sound(text, profiles) else None

    def records(self, profiles: list[Any]) -> list[ProducerRecord]:
        """Profiles that were read, as records for the topic."""
        ids = [profile.PatientId for profile in profiles]
        return list(map(ProducerRecord, ids, self._encode(profiles).split(b"\n")))

    def _decode(self, text: bytes, form: Form, most: int) -> list[Any] | None:
        if form != "object" and text.count(b"{") > most:
            return None
        try:
            profiles = self._decoders[form](text)
        except (ValueError, RecursionError):
            return None
        if form == "lines" and not _is_one_a_line(text, profiles):
            return None
        return profiles

    def _become_text(self, profiles: list[Any]) -> bool:
        """Replace each value by the text that is stored; False if one is not valid."""
        for name, text_of in self._text_of:
            for profile in profiles:
                value = getattr(profile, name)
                if value is None or value is UNSET:
                    continue
                if (text := text_of(value)) is None:
                    return False
                if text is not value:
                    setattr(profile, name, text)
        return True

    def _are_sound(self, text: bytes, profiles: list[Any]) -> bool:
        """Whether no value holds a control character, and the quotes proved something."""
        if _QUOTE in text:
            return False  # it became another one: equal numbers prove nothing
        for name, is_clean in self._is_clean:
            for profile in profiles:
                value = getattr(profile, name)
                if value and not (value.isprintable() or is_clean(value)):
                    return False
        return True


def _is_one_a_line(text: bytes, profiles: list[Any]) -> bool:
    """Whether each line holds one update: `decode_lines` accepts any white space
    between two. If every line begins with a brace, none continues an update.
    """
    text = text.strip(b" \t\r\n")
    breaks = text.count(b"\n")
    return breaks == text.count(b"\n{") == len(profiles) - 1
