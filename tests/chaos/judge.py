"""The judge of a fault run: was anything lost, out of order, or backwards?

In: what was observed. Out: integer counts, each with the PatientIds behind it.
Independent on purpose: it imports nothing of the project and restates its promises.

- lost: a receipt's place or its update is not on the topic, or the item at rest does
  not show what the update was the last to set
- out_of_order: an update that was sent after another one of its patient had been
  answered has the lower offset; a patient's records have several sources; an item at
  rest is not the fold of its patient's records up to its fence
- backwards: a sample of an item is not that fold, or shows a lower fence than before
- wrong_receipt: another record stands at its place, or another receipt names it too
- dead_lettered: an accepted update stands on the dead-letter topic
- vanished: a record is no update, or outside the partition of its key, yet not on the
  dead-letter topic
- doubled: records whose key and body another one has too, accepted or not: a POST puts
  its update on the topic once at most. Clients have to post no body twice
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from tests.chaos.fold import (
    Update,
    as_stored,
    as_update,
    explains,
    fences,
    fold,
    without_effect,
)
from tests.chaos.observed import Accepted, Item, Observed, Place, Sample

DAMAGES = (
    "lost",
    "out_of_order",
    "backwards",
    "wrong_receipt",
    "dead_lettered",
    "vanished",
    "doubled",
)


@dataclass
class Verdict:
    """Counts, and for each kind of damage the PatientIds that show it."""

    accepted: int
    records: int
    samples: int
    lost: int = 0
    out_of_order: int = 0
    backwards: int = 0
    wrong_receipt: int = 0
    dead_lettered: int = 0
    vanished: int = 0
    doubled: int = 0
    patients: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def damaged(self) -> bool:
        return any(getattr(self, damage) for damage in DAMAGES)

    def blame(self, damage: str, patient: str, times: int = 1) -> None:
        if times:
            setattr(self, damage, getattr(self, damage) + times)
            self.patients[damage].add(patient)


@dataclass
class Patient:
    """What was observed of one patient: updates by place, samples by time."""

    id: str
    accepted: list[Accepted] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    item: Item | None = None


def judge(observed: Observed) -> Verdict:
    verdict = Verdict(
        accepted=len(observed.accepted),
        records=len(observed.log),
        samples=len(observed.samples),
    )
    _judge_log(observed, verdict)
    taken = {record.place for record in observed.log}
    for patient in _by_patient(observed):
        for damage in _damaged_receipts(patient, taken, observed.dead_letters):
            verdict.blame(damage, patient.id)
        _judge_states(patient, verdict)
    return verdict


def _judge_log(observed: Observed, verdict: Verdict) -> None:
    """Nothing on the topic disappears, and what the API accepted is no dead letter."""
    for record in observed.log:
        update = as_update(record, observed.partitions)
        if record.place not in observed.dead_letters and update is None:
            verdict.blame("vanished", (record.key or b"").decode(errors="replace"))


def _judge_states(patient: Patient, verdict: Verdict) -> None:
    states = fold(patient.updates)
    disorder = (
        _overtaken(patient.accepted)
        + (len({update.fence[0] for update in patient.updates}) > 1)
        + (not explains(states, patient.item))
    )
    verdict.blame("out_of_order", patient.id, disorder)
    unexplained = [not explains(states, sample.item) for sample in patient.samples]
    verdict.blame("backwards", patient.id, sum(unexplained) + _steps_back(patient))
    bodies = {frozenset(update.fields.items()) for update in patient.updates}
    verdict.blame("doubled", patient.id, len(patient.updates) - len(bodies))


def _by_patient(observed: Observed) -> list[Patient]:
    patients: dict[str, Patient] = {}

    def of(patient: str) -> Patient:
        return patients.setdefault(patient, Patient(patient))

    for accepted in observed.accepted:
        of(accepted.patient).accepted.append(accepted)
    for record in sorted(observed.log, key=attrgetter("place")):
        update = as_update(record, observed.partitions)
        if update and record.place not in observed.dead_letters:
            of(str(update.fields["PatientId"])).updates.append(update)
    for sample in sorted(observed.samples, key=attrgetter("taken")):
        of(sample.patient).samples.append(sample)
    for patient, item in observed.items.items():
        of(patient).item = item
    return list(patients.values())


def _damaged_receipts(
    patient: Patient, taken: set[Place], dead_letters: frozenset[Place]
) -> Iterator[str]:
    """The kinds of damage, one after the other, that the patient's receipts show."""
    on_topic = {update.place: update.fields for update in patient.updates}
    missing = without_effect(patient.updates, patient.item)
    named: set[Place] = set()
    for accepted in patient.accepted:
        place, body = accepted.receipt, as_stored(accepted.body)
        if place in dead_letters:
            yield "dead_lettered"
        elif on_topic.get(place) == body and place not in named:
            if place in missing:
                yield "lost"
        else:
            elsewhere = body in on_topic.values()
            if elsewhere or place in taken:
                yield "wrong_receipt"
            if not elsewhere:
                yield "lost"
        named.add(place)


def _overtaken(accepted: Sequence[Accepted]) -> int:
    """How many updates stand before one that was answered before they were sent."""
    answered = sorted(accepted, key=attrgetter("answered"), reverse=True)
    highest, overtaken = -1, 0
    for update in sorted(accepted, key=attrgetter("sent")):
        while answered and answered[-1].answered <= update.sent:
            highest = max(highest, answered.pop().receipt.offset)
        overtaken += update.receipt.offset < highest
    return overtaken


def _steps_back(patient: Patient) -> int:
    """How often an item, the one at rest last, shows a lower fence than before."""
    items = [*(sample.item for sample in patient.samples), patient.item]
    highest, steps = -1, 0
    for item in items:
        reached = max((offset for _, offset in fences(item)), default=-1)
        steps += reached < highest
        highest = max(highest, reached)
    return steps
