"""The workload: updates as clients post them, the same for every contender."""

from __future__ import annotations

import json
from collections.abc import Iterator

PATIENT = "patient-{:08d}"
SEXES = ("Female", "Male", "Other", "Unknown")


def updates(count: int, first: int = 0) -> Iterator[bytes]:
    """Updates of as many patients, as compact JSON."""
    for number in range(first, first + count):
        yield json.dumps(update(number), separators=(",", ":")).encode()


def update(number: int) -> dict[str, str]:
    """One update of all nine fields, about 250 bytes."""
    return {
        "PatientId": PATIENT.format(number),
        "FirstName": f"First{number % 1000}",
        "LastName": f"Last{number % 5000}",
        "DateOfBirth": f"{1930 + number % 90}-{1 + number % 12:02d}-{1 + number % 28:02d}",
        "Sex": SEXES[number % 4],
        "IsPregnant": "False",
        "Email": f"patient{number}@example.org",
        "Phone": f"+49 30 {number:08d}",
        "Address": f"{1 + number % 200} Example Street\n{10000 + number % 9000} Town",
    }
