"""The one declaration of the fields, for the API and the consumer alike.

In: parsed JSON, or a record. Out: an `Update` whose every value is a string or None.
Nothing is trimmed or guessed, and no error quotes a value. A new field is one line in
`PatientProfile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, TypeGuard, cast

from django.core.validators import RegexValidator
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from profiles import records
from profiles.records import InvalidRecord, Record
from profiles.updates import Update

_NO_CONTROLS = RegexValidator(
    r"^[^\x00-\x1f\x7f-\x9f]*\Z", "Control characters are not allowed."
)
_LINES = RegexValidator(
    r"^[^\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]*\Z",
    "Control characters other than line breaks are not allowed.",
)
_PLAIN_EMAIL = re.compile(
    r"[\w+-]+(\.[\w+-]+)*@([a-z0-9]{1,63}\.)+[a-z]{2,24}", re.ASCII
)
"""A part of what Django accepts, found without its look at every label."""
_DOTS = (".", "..")


class TextField(serializers.CharField):
    """A JSON string, kept as it is; null removes the field."""

    controls = _NO_CONTROLS

    def __init__(self, **options: Any) -> None:
        super().__init__(
            trim_whitespace=False, **{"required": False, "allow_null": True, **options}
        )
        self.validators.append(self.controls)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return data

    def plain(self, value: object) -> bool:
        """Whether this is surely valid, and kept as it is; False only says: look."""
        return (
            type(value) is str and 0 < len(value) <= (self.max_length or 0)
        ) and value.isprintable()


class LinesField(TextField):
    """Text that may hold line breaks."""

    controls = _LINES


class PatientIdField(TextField):
    """1 to 128 characters; a JSON integer is taken as its string.

    Not "." or "..": clients leave these out of an address (RFC 3986, 5.2.4).
    """

    default_error_messages = {"dots": "Can't be a dot or two: no address can hold it."}

    def __init__(self) -> None:
        super().__init__(required=True, allow_null=False, max_length=128)

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, int) and not isinstance(data, bool):
            return str(data)
        text = super().to_internal_value(data)
        if text in _DOTS:
            self.fail("dots")
        return text

    def plain(self, value: object) -> bool:
        return TextField.plain(self, value) and value not in _DOTS


class DateField(TextField):
    """A calendar date, YYYY-MM-DD (RFC 3339, full-date)."""

    default_error_messages = {"date": "Not a date: give YYYY-MM-DD."}

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not self.plain(text):
            self.fail("date")
        return text

    def plain(self, value: object) -> bool:
        if type(value) is not str or len(value) != 10 or value[4::3] != "--":
            return False
        try:
            return bool(date.fromisoformat(value))
        except ValueError:
            return False


class EmailField(TextField, serializers.EmailField):
    """An e-mail address as Django checks it."""

    def plain(self, value: object) -> bool:
        return (
            type(value) is str and len(value) <= (self.max_length or 0)
        ) and _PLAIN_EMAIL.fullmatch(value) is not None


class OneOfField(TextField):
    """One of a few words."""

    default_error_messages = {"choice": "Must be one of {words}."}

    def __init__(self, *words: str) -> None:
        super().__init__()
        self.words = words

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if text not in self.words:
            self.fail("choice", words=", ".join(self.words))
        return text

    def plain(self, value: object) -> bool:
        return type(value) is str and value in self.words


class FlagField(OneOfField):
    """A JSON boolean, or exactly "True" or "False"; stored as that string."""

    def __init__(self) -> None:
        super().__init__("True", "False")

    def to_internal_value(self, data: Any) -> str:
        return str(data) if isinstance(data, bool) else super().to_internal_value(data)


class PatientProfile(serializers.Serializer[Any]):
    """The fields of a patient profile. Deploy consumers before web on a new one."""

    PatientId = PatientIdField()
    FirstName = TextField(max_length=100)
    LastName = TextField(max_length=100)
    DateOfBirth = DateField()
    Sex = OneOfField("Female", "Male", "Other", "Unknown")
    IsPregnant = FlagField()
    Email = EmailField(max_length=254)
    Phone = TextField(max_length=32)
    Address = LinesField(max_length=500)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        errors = self._unknown(data) if isinstance(data, Mapping) else {}
        try:
            valid: dict[str, Any] = super().to_internal_value(data)
        except ValidationError as error:
            raise ValidationError({**_by_field(error), **errors}) from None
        if errors:
            raise ValidationError(errors)
        return valid

    def _unknown(self, data: Mapping[str, object]) -> dict[str, list[str]]:
        return {name: ["Unknown field."] for name in data if name not in self.fields}


_PROFILE = PatientProfile()
_PLAIN = {name: cast(TextField, field).plain for name, field in _PROFILE.fields.items()}

FIELDS = [name for name in _PROFILE.fields.keys() if name != "PatientId"]  # noqa: SIM118 DRF types iteration as values


def parse(data: object) -> Update:
    """Validate parsed JSON into an update.

    Raises ValidationError, whose detail maps each bad field to its messages. What is
    plain to see is not put through DRF's machinery, which takes five times as long;
    a test holds that both agree.
    """
    # Not run_validation: of null it says no more than that, without a field.
    valid = data.copy() if _is_plain(data) else _PROFILE.to_internal_value(data)
    return Update(valid.pop("PatientId"), valid)


def _is_plain(data: object) -> TypeGuard[dict[str, Any]]:
    """Whether every field is surely valid and kept as it is."""
    if type(data) is not dict or data.get("PatientId") is None:
        return False
    try:
        for name, value in data.items():
            if not _PLAIN[name](value) and value is not None:
                return False
    except KeyError:
        return False
    return True


def decode(record: Record) -> Update:
    """Validate a record into an update; raises InvalidRecord."""
    body = records.load_body(record)
    try:
        update = parse(body)
    except ValidationError as error:
        raise InvalidRecord("invalid_fields", _names(error)) from None
    records.check_key(record, update)
    return update


def _names(error: ValidationError) -> str:
    """The bad fields by name; an undeclared name may be anything, so it is not told."""
    names = _by_field(error).keys()
    declared = names & _PROFILE.fields.keys()
    undeclared = ["undeclared"] if len(declared) < len(names) else []
    return ", ".join([*sorted(declared), *undeclared])


def _by_field(error: ValidationError) -> dict[str, Any]:
    """A serializer's errors are always by field; DRF's type also allows lists."""
    return cast(dict[str, Any], error.detail)
