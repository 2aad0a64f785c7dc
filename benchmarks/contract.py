"""The contract that a contender meets before it is timed.

In: a server or a consumer that runs. Out: nothing; raises ContractBroken where an answer,
a record on the topic or an item differs from what the project would leave there.
"""

from __future__ import annotations

import json
from typing import Any

import requests

from benchmarks import engines
from benchmarks.contenders import Contender, Server, Site
from tests.engines.process import wait_until

FULL = {
    "PatientId": "contract/ä 1",
    "FirstName": "Zoë",
    "LastName": "O'Neill-Łęcki",
    "DateOfBirth": "1984-02-29",
    "Sex": "Female",
    "IsPregnant": "False",
    "Email": "zoe.oneill@example.org",
    "Phone": "+49 30 1234567",
    "Address": "1 Example Street\n12345 Town",
}
ACCEPTED: dict[str, dict[str, Any]] = {
    "all fields": FULL,
    "one field": {"PatientId": "contract-2", "LastName": "Lee"},
    "a null": {"PatientId": "contract-3", "Phone": None},
}
REFUSED: dict[str, Any] = {
    "no PatientId": {"FirstName": "Ann"},
    "an empty PatientId": FULL | {"PatientId": ""},
    "a long PatientId": FULL | {"PatientId": "p" * 129},
    "an unknown field": FULL | {"Nickname": "Zo"},
    "a number for a name": FULL | {"FirstName": 5},
    "a control character": FULL | {"FirstName": "A\tB"},
    "a day that is not there": FULL | {"DateOfBirth": "2023-02-29"},
    "another word": FULL | {"Sex": "female"},
    "no e-mail address": FULL | {"Email": "zoe at example.org"},
    "a long phone number": FULL | {"Phone": "1" * 33},
    "a string": "Zoë",
}
ROUNDS, PATIENTS = 3, 200


class ContractBroken(Exception):
    """A contender does something else than the project: it can't be compared."""


def check_server(server: Server, site: Site) -> None:
    """Accepted updates are on the topic as posted, and bad ones are refused."""
    receipts = [
        (update, _post(server, "/patientprofile", update))
        for name, update in ACCEPTED.items()
        if not (name == "a null" and server.lenient)
    ]
    for name, update in REFUSED.items():
        if name not in server.lenient:
            _post(server, "/patientprofile", update, accepted=False)
    if server.many:
        updates = list(ACCEPTED.values())
        receipts += zip(updates, _post(server, server.many, updates), strict=True)
        bad = [*updates, REFUSED["an unknown field"]]
        _post(server, server.many, bad, accepted=False)
    stored = engines.records(site)
    for update, receipt in receipts:
        key, value = stored[receipt["Partition"], receipt["Offset"]]
        if (key.decode(), json.loads(value)) != (receipt["PatientId"], update):
            raise ContractBroken(f"{server.name} stored {value!r} for {update}")


def _post(server: Server, path: str, body: Any, accepted: bool = True) -> Any:
    url = f"http://127.0.0.1:{server.port}{path}"
    answer = requests.post(url, json=body, timeout=10)
    if (answer.status_code == 202) != accepted or answer.status_code >= 500:
        raise ContractBroken(f"{server.name} answered {answer.status_code} to {body}")
    return answer.json() if accepted else None


def updates() -> list[dict[str, str]]:
    """Several of each patient, each of other fields."""
    names = ("FirstName", "LastName", "Address")
    return [
        {"PatientId": f"contract-{patient}", names[number]: f"{number} ä {patient}"}
        | {"Phone": f"{number}"}
        for number in range(ROUNDS)
        for patient in range(PATIENTS)
    ]


def check_consumer(consumer: Contender, site: Site) -> None:
    """Every item is the fold of its patient's updates, which are on the site's topic."""
    expected: dict[str, dict[str, str]] = {}
    for update in updates():
        expected.setdefault(update["PatientId"], {}).update(update)
    with consumer, engines.progress(site) as progress:
        wait_until(
            lambda: progress() >= ROUNDS * PATIENTS, 60, f"{consumer.name} is too slow"
        )
        consumer.stop()
    found = engines.items(site)
    for patient, item in expected.items():
        fields = {n: v for n, v in found.get(patient, {}).items() if n in FULL}
        if fields != item or "UpdatedAt" not in found[patient]:
            raise ContractBroken(f"{consumer.name} stored {fields} in place of {item}")
