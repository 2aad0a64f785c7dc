"""The one declaration of the fields, for the API and the consumer alike.

In: JSON text, or a record. Out: a record for the topic, or an `Update`; every value is
a string or null. Nothing is trimmed or guessed, and no error quotes a value. A new
field is one line in `PatientProfile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, cast

import msgspec
from django.core.validators import RegexValidator
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from profiles.core import fast_validation, records
from profiles.core.records import InvalidRecord, NotStrictJSON, ProducerRecord, Record
from profiles.core.updates import Update

_NO_CONTROLS = RegexValidator(
    r"^[^\x00-\x1f\x7f-\x9f]*\Z", "Control characters are not allowed."
)
_LINES = RegexValidator(
    r"^[^\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]*\Z",
    "Control characters other than line breaks are not allowed.",
)
_PLAIN_EMAIL = r"(?a)^[\w+-]++(?:\.[\w+-]++)*+@(?:[a-z0-9]{1,63}+\.)++[a-z]{2,24}\Z"
"""A part of what Django accepts; it never tries a character twice."""
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What msgspec bounds an integer by; a larger one takes the closer look."""


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

    @property
    def plain(self) -> Any:
        """msgspec's type of what is surely valid, but for controls."""
        return Annotated[str, msgspec.Meta(min_length=1, max_length=self.max_length)]


class LinesField(TextField):
    """Text that may hold line breaks."""

    controls = _LINES


class PatientIdField(TextField):
    """1 to 128 characters; a JSON integer is taken as its string."""

    default_error_messages = {"dots": "Can't be a dot or two: no address can hold it."}

    def __init__(self) -> None:
        super().__init__(required=True, allow_null=False, max_length=128)

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, int) and not isinstance(data, bool):
            return str(data)
        text = super().to_internal_value(data)
        if text in records.DOTS:
            self.fail("dots")
        return text

    @property
    def plain(self) -> Any:
        return super().plain | _INTEGER


class DateField(TextField):
    """A calendar date, YYYY-MM-DD (RFC 3339, full-date)."""

    plain = date

    default_error_messages = {"date": "Not a date: give YYYY-MM-DD."}

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        try:
            msgspec.convert(text, date)
        except msgspec.ValidationError:
            self.fail("date")
        return text


class EmailField(TextField, serializers.EmailField):
    """An e-mail address as Django checks it."""

    @property
    def plain(self) -> Any:
        fits = msgspec.Meta(max_length=self.max_length, pattern=_PLAIN_EMAIL)
        return Annotated[str, fits]


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

    @property
    def plain(self) -> Any:
        return Literal[self.words]


class FlagField(OneOfField):
    """A JSON boolean, or exactly "True" or "False"; stored as that string."""

    def __init__(self) -> None:
        super().__init__("True", "False")

    def to_internal_value(self, data: Any) -> str:
        return str(data) if isinstance(data, bool) else super().to_internal_value(data)

    @property
    def plain(self) -> Any:
        return super().plain | bool


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

FIELDS = [name for name in _PROFILE.fields.keys() if name != "PatientId"]  # noqa: SIM118 DRF types iteration as values

_plain = fast_validation.Reader(
    {name: cast(TextField, field).plain for name, field in _PROFILE.fields.items()},
    {
        name: cast(re.Pattern[str], cast(TextField, field).controls.regex).match
        for name, field in _PROFILE.fields.items()
    },
)
_write = msgspec.json.Encoder().encode


def parse(text: bytes) -> ProducerRecord:
    """Validate an update's JSON into what goes on the topic.

    Raises NotStrictJSON, or ValidationError, whose detail maps each bad field to its
    messages. What is plain to see is not put through DRF's machinery, which takes about
    ten times as long; a test holds that both agree.
    """
    return _plain.read(text) or _parse_closely(text)


def parse_at_once(text: bytes) -> ProducerRecord | None:
    """As `parse`, where compiled code alone can vouch for the update; else None."""
    return _plain.read(text)


def parse_array(array: bytes, most: int) -> list[ProducerRecord] | None:
    """The updates of a JSON array at once, in half the time that `parse` takes for each.

    None where one is not plain to see, there are more than `most`, or commas for many.
    """
    return _plain.read_array(array, most)


def validate(record: Record) -> ProducerRecord:
    """What a record would be, produced now, wherever it stands; raises InvalidRecord."""
    value = records.value_of(record)
    try:
        valid = parse(value)
    except NotStrictJSON as error:
        raise InvalidRecord("not_json", str(error)) from None
    except ValidationError as error:
        raise InvalidRecord("invalid_fields", _names(error)) from None
    records.check_key(record, valid.patient_id)
    return valid


def decode(record: Record, partitions: int) -> Update:
    """The update that a record holds on a topic of so many partitions.

    Raises InvalidRecord; Misplaced where the partition alone is wrong.
    """
    valid = validate(record)
    records.check_partition(record, valid.patient_id, partitions)
    fields = msgspec.json.decode(valid.value)
    del fields["PatientId"]
    return Update(valid.patient_id, fields)


def _parse_closely(text: bytes) -> ProducerRecord:
    # Not run_validation: of null it says no more than that, without a field.
    valid = _PROFILE.to_internal_value(records.load_json(text))
    return ProducerRecord(valid["PatientId"], _write(valid))


def _names(error: ValidationError) -> str:
    """The bad fields by name; an undeclared name may be anything, so it is not told."""
    names = _by_field(error).keys()
    declared = names & _PROFILE.fields.keys()
    undeclared = ["undeclared"] if len(declared) < len(names) else []
    return ", ".join([*sorted(declared), *undeclared])


def _by_field(error: ValidationError) -> dict[str, Any]:
    """A serializer's errors are always by field; DRF's type also allows lists."""
    return cast(dict[str, Any], error.detail)
