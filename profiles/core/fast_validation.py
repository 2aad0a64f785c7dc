"""What is plain to see: updates that compiled code can vouch for.

In: JSON text of one update or of an array. Out: records for the topic; or None where it
takes a closer look, be it to accept or to refuse. Knows the fields by what it is told
of them, and PatientId.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from profiles.core import records
from profiles.core.records import ProducerRecord

_PERHAPS_CONTROLS = b"\\\x7f\xc2"
"""C0 is written with a backslash, DEL as it is; C1 begins with C2, as a few others do."""


class Reader:
    """Reads updates of a profile's fields.

    `types` has msgspec's type of what each field surely takes, and keeps as it is, but
    for three things: an integer or a boolean becomes text, a string holds no control
    that `is_clean` of its field does not pass, and no PatientId is a dot or two.
    """

    def __init__(
        self,
        types: Mapping[str, Any],
        is_clean: Mapping[str, Callable[[str], object]],
    ) -> None:
        others = [name for name in types if name != "PatientId"]
        profile = msgspec.defstruct(
            "Profile",
            [
                ("PatientId", types["PatientId"]),
                *((name, types[name] | None | UnsetType, UNSET) for name in others),
            ],
            forbid_unknown_fields=True,
            gc=False,
        )
        self._read: Callable[[bytes], Any] = msgspec.json.Decoder(profile).decode
        self._read_array = msgspec.json.Decoder(list[profile]).decode  # type: ignore[valid-type]
        self._write = msgspec.json.Encoder().encode_lines
        self._is_clean = is_clean

    def read(self, text: bytes) -> ProducerRecord | None:
        """What an update is on the topic; None where that takes a closer look."""
        try:
            profile = self._read(text)
        except (ValueError, RecursionError):
            return None
        found = self._records(text, [profile])
        return found[0] if found else None

    def read_array(self, array: bytes, most: int) -> list[ProducerRecord] | None:
        """As `read`, of all elements; None, too, for over `most`, or commas for many."""
        if array.count(b",") > records.MANY_COMMAS:
            return None
        try:
            profiles: list[Any] = self._read_array(array)
        except (ValueError, RecursionError):
            return None
        return self._records(array, profiles) if len(profiles) <= most else None

    def _records(self, text: bytes, profiles: list[Any]) -> list[ProducerRecord] | None:
        lines = self._write(profiles)
        if not _is_kept(text, lines) or not self._are_clean(profiles, lines):
            return None
        ids = [profile.PatientId for profile in profiles]
        if int in map(type, ids) or b":true" in lines or b":false" in lines:
            ids = [_as_text(profile).PatientId for profile in profiles]
            lines = self._write(profiles)
        if not records.DOTS.isdisjoint(ids):
            return None
        return list(map(ProducerRecord, ids, lines.split(b"\n")))

    def _are_clean(self, profiles: list[Any], lines: bytes) -> bool:
        if lines.translate(None, _PERHAPS_CONTROLS) == lines:
            return True
        return all(
            is_clean(value)
            for profile in profiles
            for name, is_clean in self._is_clean.items()
            if isinstance(value := getattr(profile, name), str)
        )


def _is_kept(text: bytes, lines: bytes) -> bool:
    """Whether all that was read is written: of a name that came twice, one is lost.

    Where a quote is written in another way than it was read, their number says nothing.
    """
    return text.count(b'"') == lines.count(b'"') and b"\\u0022" not in text


def _as_text(profile: Any) -> Any:
    """Its integers and booleans as the words that are stored."""
    for name in profile.__struct_fields__:
        if isinstance(value := getattr(profile, name), int):
            setattr(profile, name, str(value))
    return profile
