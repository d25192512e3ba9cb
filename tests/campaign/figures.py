"""The figures of a campaign: attacks, and what came of them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .processes import MEMORY, Outcome

# What may come of an attack; anything else is a failure.
REFUSED, UNCHANGED, AGAIN, OTHER = "refused", "unchanged", "again", "other"
MEANINGS = {
    REFUSED: "refused with a sentence",
    UNCHANGED: "no difference",
    AGAIN: "succeeded again",
    OTHER: "other data, valid",
}
_EXAMPLES = 40


@dataclass
class Figures:
    """What one part of the campaign did."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    failed: int = 0
    memory: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    @property
    def attacks(self) -> int:
        """How many attacks there were."""
        return sum(self.counts.values()) + self.failed

    def passed(self, kind: str, *outcomes: Outcome) -> None:
        """Count an attack that was survived, as ``kind`` says."""
        self.saw(*outcomes)
        self.counts[kind] += 1

    def fail(self, attack: str, reasons: Iterable[str], *outcomes: Outcome) -> None:
        """Count an attack that was not survived."""
        self.saw(*outcomes)
        self.failed += 1
        if len(self.failures) < _EXAMPLES:
            said = "".join(f" [{' '.join(outcome.err.split())[-300:]}]" for outcome in outcomes if outcome.err)
            self.failures.append(f"{attack}: {'; '.join(reasons)}{said}")

    def judge(self, attack: str, reasons: list[str], kind: str, *outcomes: Outcome) -> None:
        """Count an attack as failed where there are reasons, else as survived."""
        if reasons:
            self.fail(attack, reasons, *outcomes)
        else:
            self.passed(kind, *outcomes)

    def saw(self, *outcomes: Outcome) -> None:
        """Note the memory and the time of processes."""
        self.memory = max([self.memory, *(outcome.memory for outcome in outcomes)])
        self.slowest = max([self.slowest, *(outcome.seconds for outcome in outcomes)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "attacks": self.attacks,
            **{kind: self.counts[kind] for kind in MEANINGS},
            "failed": self.failed,
            "failures": self.failures,
            "peak_memory_mb": round(self.memory / 1e6),
            "slowest_seconds": round(self.slowest, 1),
            "seconds": round(self.seconds, 1),
        }


def table(parts: Iterable[Figures]) -> str:
    """Return the figures as a table, and below it the first failures."""
    head = ("part", "attacks", *MEANINGS.values(), "failed", "peak MB", "slowest s", "seconds")
    rows = [head]
    for part in parts:
        told = part.to_dict()
        kept = ("attacks", *MEANINGS, "failed", "peak_memory_mb", "slowest_seconds", "seconds")
        rows.append((part.name, *(f"{told[key]:,}" for key in kept)))
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    for part in parts:
        lines += ["", *(f"{part.name}: {failure}" for failure in part.failures)] if part.failures else []
        if part.failed > len(part.failures):
            lines.append(f"{part.name}: and {part.failed - len(part.failures):,} more")
    return "\n".join(lines)


def complaints(outcome: Outcome, *, statuses: tuple[int, ...], sentence: bool = True) -> list[str]:
    """Return what is wrong with how a verb ended, whatever it was asked: nothing where it behaved.

    It ends with one of ``statuses``, and with a ``sentence`` where that is not 0.
    """
    wrong = []
    if outcome.status == -14:
        wrong.append("hangs")
    elif outcome.status not in statuses:
        wrong.append(f"ended with {outcome.status}")
    if "Traceback (most recent call last)" in outcome.err:
        wrong.append("traceback")
    if "bug in recvae" in outcome.err:
        wrong.append("'a bug in recvae'")
    if "not enough memory" in outcome.err or outcome.memory > MEMORY:
        wrong.append(f"memory ({outcome.memory >> 20} MB)")
    if sentence and not wrong and outcome.status and not _one_sentence(outcome.err):
        wrong.append("not one sentence")
    return wrong


def _one_sentence(text: str) -> bool:
    """Return whether stderr holds one error, perhaps with a list below it, and otherwise warnings alone."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    return len(errors) == 1 and all(line.startswith(("Error: ", "Warning: ", "  ")) for line in lines)
