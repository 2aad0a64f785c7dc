"""Redrive: dead letters that are updates after all, published again.

In: letters and their updates. Out: new records on the topic, and the notes of them on
the dead-letter topic. Knows no field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from profiles.core.records import ProducerRecord
from profiles.core.updates import Receipt
from profiles.kafka.dead_letters import DeadLetterWriter, Letter
from profiles.kafka.producer import NotAcknowledged, Verdict

PublishAll = Callable[[Sequence[ProducerRecord]], Sequence[Verdict]]


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of one letter; one that is not `noted` is redriven again next time."""

    letter: Receipt
    verdict: Verdict
    noted: bool


def redrive(
    batch: Sequence[tuple[Letter, ProducerRecord]],
    publish_all: PublishAll,
    topic: DeadLetterWriter,
) -> list[Redriven]:
    """Publish letters that are updates after all, given in their order, and note it.

    A patient's letters after one that was refused are not noted: the next redrive
    sends them again from there on, and so keeps their order. Raises what `publish_all`
    raises.
    """
    verdicts = publish_all([update for _, update in batch])
    refused: set[str] = set()
    accepted: dict[Receipt, Receipt] = {}
    for (letter, update), verdict in zip(batch, verdicts, strict=True):
        if isinstance(verdict, NotAcknowledged):
            refused.add(update.patient_id)
        elif update.patient_id not in refused:
            accepted[letter.receipt] = verdict
    noted = topic.mark_redriven(accepted)
    return [
        Redriven(letter.receipt, verdict, letter.receipt in noted)
        for (letter, _), verdict in zip(batch, verdicts, strict=True)
    ]
