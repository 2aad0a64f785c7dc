"""Redrive: a dead letter that is an update after all, published again.

In: a letter and its update. Out: a new record on the topic, and the note of it on the
dead-letter topic. Knows no field.
"""

from __future__ import annotations

from collections.abc import Callable

from profiles.core.records import ProducerRecord
from profiles.core.updates import Receipt
from profiles.kafka.dead_letters import DeadLetterWriter, Letter


class NotMarked(Exception):
    """A letter is redriven, but nothing remembers it: the operator must."""


def redrive(
    letter: Letter,
    update: ProducerRecord,
    publish: Callable[[ProducerRecord], Receipt],
    topic: DeadLetterWriter,
) -> Receipt:
    """Publish a letter that is an update after all, and note that it was.

    Raises what `publish` raises, or NotMarked.
    """
    receipt = publish(update)
    if not topic.mark_redriven(letter.receipt, receipt):
        raise NotMarked(
            f"{letter.receipt} is redriven as {receipt}, but Kafka did not acknowledge "
            "the note of it: redriving again would publish it once more"
        )
    return receipt
