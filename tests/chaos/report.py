"""The report of a fault run: a table for people, integers for programs.

In: the verdict, and what was done meanwhile. Out: text, JSON, and whether it failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.judge import DAMAGES, Verdict

SUSPENSIONS = ("suspend", "zombie")
RESIZES = ("join", "leave")


@dataclass(frozen=True)
class Report:
    """What one run came to."""

    verdict: Verdict
    answers: Mapping[str, int]
    faults: Mapping[str, int]
    settled: bool
    seed: int
    seconds: int
    wall_seconds: int

    @property
    def damaged(self) -> bool:
        """A run that did not settle proves nothing, so it fails too."""
        return self.verdict.damaged or not self.settled

    def figures(self) -> dict[str, int]:
        verdict, faults = self.verdict, self.faults
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "wall_seconds": self.wall_seconds,
            "accepted": verdict.accepted,
            "refused": self.answers.get("503", 0),
            "unknown": self.answers.get("unknown", 0),
            "other_answers": self._other_answers(),
            "records": verdict.records,
            "samples": verdict.samples,
            "kills": faults.get("kill -9", 0),
            "suspensions": sum(faults.get(name, 0) for name in SUSPENSIONS),
            "restarts": faults.get("restart", 0),
            "resizes": sum(faults.get(name, 0) for name in RESIZES),
            "ended_by_itself": faults.get("ended by itself", 0),
            "faults": sum(faults.values()) - faults.get("ended by itself", 0),
            "flaps": faults.get("flap", 0),
            **{damage: getattr(verdict, damage) for damage in DAMAGES},
            "settled": int(self.settled),
        }

    def table(self) -> str:
        rows = {name.replace("_", " "): n for name, n in self.figures().items()}
        lines = [f"{name:>16}  {n:>8}\n" for name, n in rows.items()]
        verdict = "DAMAGED" if self.damaged else "sound"
        return "".join([*lines, f"{'verdict':>16}  {verdict:>8}\n"])

    def write(self, file: Path) -> None:
        """The figures, and for each damage the PatientIds that show it."""
        patients = {
            damage: sorted(ids) for damage, ids in self.verdict.patients.items()
        }
        facts = {**self.figures(), "patients": patients}
        file.write_text(json.dumps(facts, indent=2) + "\n")

    def _other_answers(self) -> int:
        known = {"202", "503", "unknown"}
        return sum(n for answer, n in self.answers.items() if answer not in known)
