"""The one declaration of the fields, for the API and the consumer alike.

In: JSON text, or a record. Out: records for the topic, or a `MergedUpdate`; every value
is a string or null. Nothing is trimmed or guessed, and no error quotes a value. A new
field is one line in `PatientProfile`.

Ordinary updates take the fast path. What it does not accept takes the exact path, DRF's
machinery, which takes some twenty times as long. A test holds that both agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, Literal, cast

import msgspec
from django.core.validators import RegexValidator
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from profiles.core import fast_validation, records
from profiles.core.fast_validation import Form
from profiles.core.records import InvalidRecord, NotStrictJSON, ProducerRecord, Record
from profiles.core.updates import MergedUpdate

Fields = dict[str, str | None]

_NO_CONTROLS = RegexValidator(
    r"^[^\x00-\x1f\x7f-\x9f]*\Z", "Control characters are not allowed."
)
_LINES = RegexValidator(
    r"^[^\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]*\Z",
    "Control characters other than line breaks are not allowed.",
)
_USUAL_EMAIL = r"(?a)^[\w+-]++(?:\.[\w+-]++)*+@(?:[a-z0-9]{1,63}+\.)++[a-z]{2,24}\Z"
"""A part of what Django accepts. It never tries a character twice."""

_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""The largest range that msgspec checks; other integers take the exact path."""

_EARLIEST_ZONE = timezone(timedelta(hours=14))
"""Where each day begins first: a date is in the future if it is so there."""

MOST_GUESSED = 5
"""Unknown fields of an update that are compared with the declared ones: a comparison
takes about 20 us, and more for a name of over LONGEST_GUESSED characters."""

LONGEST_GUESSED = 32


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
    def fast(self) -> fast_validation.Field:
        """What the fast path accepts: never more than `to_internal_value`."""
        length = msgspec.Meta(min_length=1, max_length=self.max_length)
        is_clean = cast(re.Pattern[str], self.controls.regex).match
        return fast_validation.Field(Annotated[str, length], is_clean)


class LinesField(TextField):
    """Text that may hold line breaks."""

    controls = _LINES


class PatientIdField(TextField):
    """1 to 128 characters; an integer becomes its string."""

    default_error_messages = {"dots": 'Must not be "." or "..": no URL can hold it.'}

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
    def fast(self) -> fast_validation.Field:
        def text_of(value: str | int) -> str | None:
            return None if value in records.DOTS else str(value)

        field = super().fast
        return field._replace(type=field.type | _INTEGER, text_of=text_of)


def date_of(text: str) -> str | None:
    """The text if it is YYYY, YYYY-MM or YYYY-MM-DD in the calendar, else None."""
    if len(text) not in (4, 7, 10):
        return None
    day = text + "0000-01-01"[len(text) :]
    try:
        date.fromisoformat(day)
    except ValueError:
        return None
    return text if day[4] == day[7] == "-" else None


class DateField(TextField):
    """A year, a month or a day: YYYY, YYYY-MM or YYYY-MM-DD, as FHIR's `date`."""

    default_error_messages = {"date": "Not a date: use YYYY-MM-DD, YYYY-MM or YYYY."}

    def __init__(self) -> None:
        super().__init__(max_length=len("YYYY-MM-DD"))

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if date_of(text) is None:
            self.fail("date")
        return text

    @property
    def fast(self) -> fast_validation.Field:
        return super().fast._replace(text_of=date_of)


class EmailField(TextField, serializers.EmailField):
    """An e-mail address as Django checks it."""

    @property
    def fast(self) -> fast_validation.Field:
        fits = msgspec.Meta(max_length=self.max_length, pattern=_USUAL_EMAIL)
        return super().fast._replace(type=Annotated[str, fits])


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
    def fast(self) -> fast_validation.Field:
        return super().fast._replace(type=Literal[self.words])


class FlagField(OneOfField):
    """A JSON boolean, or exactly "True" or "False"; stored as that string."""

    def __init__(self) -> None:
        super().__init__("True", "False")

    def to_internal_value(self, data: Any) -> str:
        return str(data) if isinstance(data, bool) else super().to_internal_value(data)

    @property
    def fast(self) -> fast_validation.Field:
        field = super().fast
        return field._replace(type=field.type | bool, text_of=str)


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
        unknown = [name for name in data if name not in self.fields]
        errors = dict.fromkeys(unknown, ["Unknown field."])
        for name in unknown[:MOST_GUESSED]:
            if (meant := _closest(name, tuple(self.fields))) is not None:
                errors[name] = [f"Unknown field. Did you mean {meant}?"]
        return errors


_PROFILE = PatientProfile()

FIELDS = [name for name in _PROFILE.fields.keys() if name != "PatientId"]  # noqa: SIM118 DRF types iteration as values

_fast = fast_validation.Reader(
    {name: cast(TextField, field).fast for name, field in _PROFILE.fields.items()}
)
_encode = msgspec.json.Encoder().encode


def parse(text: bytes) -> ProducerRecord:
    """Validate a posted update's JSON into a record for the topic.

    Raises NotStrictJSON, or ValidationError, whose detail maps each bad field to its
    messages.
    """
    return parse_at_once(text) or _parse_exactly(text)


def parse_at_once(text: bytes) -> ProducerRecord | None:
    """As `parse`, in a few microseconds; None where only `parse` can decide."""
    found = _parse_fast(text, "object", 1)
    return found[0] if found else None


def parse_array(array: bytes, most: int) -> list[ProducerRecord] | None:
    """The updates of a JSON array at once, in half the time of `parse` for each.

    None where only `parse` can decide, or the array may hold more than `most`.
    """
    return _parse_fast(array, "array", most)


def parse_lines(lines: bytes, most: int) -> list[ProducerRecord] | None:
    """As `parse_array`, of one update a line."""
    return _parse_fast(lines, "lines", most)


def validate(record: Record) -> ProducerRecord:
    """What a record would be if produced now, in its partition; raises InvalidRecord."""
    return _record(_fields(record))


def decode(record: Record, partitions: int) -> MergedUpdate:
    """The update in a record on a topic with this partition count.

    Raises InvalidRecord; Misplaced if only the partition is wrong.
    """
    fields = _fields(record)
    patient_id = cast(str, fields.pop("PatientId"))
    records.check_partition(record, patient_id, partitions)
    return MergedUpdate(
        patient_id, fields, record.source, record.offset, record.timestamp_ms
    )


def _latest_date() -> str:
    return datetime.now(_EARLIEST_ZONE).date().isoformat()


def _parse_exactly(text: bytes) -> ProducerRecord:
    fields = _read_exactly(text)
    if (fields.get("DateOfBirth") or "") > _latest_date():
        raise ValidationError({"DateOfBirth": ["In the future."]})
    return _record(fields)


def _parse_fast(text: bytes, form: Form, most: int) -> list[ProducerRecord] | None:
    profiles = _fast.read(text, form, most)
    if profiles is None:
        return None
    latest = _latest_date()
    for profile in profiles:
        if profile.DateOfBirth and profile.DateOfBirth > latest:
            return None
    return _fast.records(profiles)


def _fields(record: Record) -> Fields:
    """A record's fields, PatientId among them. No clock is read: what is an update once
    is one in each replay.
    """
    value = records.value_of(record)
    try:
        fields = _read(value)
    except NotStrictJSON as error:
        raise InvalidRecord("not_json", str(error)) from None
    except ValidationError as error:
        raise InvalidRecord("invalid_fields", _names(error)) from None
    records.check_key(record, cast(str, fields["PatientId"]))
    return fields


def _read(text: bytes) -> Fields:
    profiles = _fast.read(text)
    if profiles is None:
        return _read_exactly(text)
    return cast(Fields, msgspec.to_builtins(profiles[0]))


def _read_exactly(text: bytes) -> Fields:
    # Not run_validation: for null it gives a message without a field.
    return _PROFILE.to_internal_value(records.load_json(text))


def _record(fields: Fields) -> ProducerRecord:
    return ProducerRecord(cast(str, fields["PatientId"]), _encode(fields))


@lru_cache(1024)
def _closest(name: str, declared: tuple[str, ...]) -> str | None:
    """The declared field that an unknown one may have meant."""
    if len(name) > LONGEST_GUESSED:
        return None
    by_lower = {each.lower(): each for each in declared}
    found = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.75)
    return by_lower[found[0]] if found else None


def _names(error: ValidationError) -> str:
    """The bad fields by name. An undeclared name may be anything: it is left out."""
    names = _by_field(error).keys()
    declared = names & _PROFILE.fields.keys()
    undeclared = ["undeclared"] if len(declared) < len(names) else []
    return ", ".join([*sorted(declared), *undeclared])


def _by_field(error: ValidationError) -> dict[str, Any]:
    """A serializer's errors are always by field; DRF's type also allows lists."""
    return cast(dict[str, Any], error.detail)
