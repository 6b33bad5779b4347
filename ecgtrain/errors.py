"""The error tree of the training house; it hangs from the data house's ``EcgError``.

    EcgError                     what happened · where · expected · got · what to do
    ├── CheckpointError          a checkpoint can't be written or read, or belongs to another run
    ├── DivergedError            the loss or its gradient is no longer a number; .step, .parts, .rows
    ├── LeakageError             a patient or record would be seen by both sides of a split
    ├── ProtocolError            a protocol can't be followed with the records at hand
    └── PassportError            signals were prepared differently from those the model was trained on

Every error is one readable line, and pickles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecgstore import EcgError


class CheckpointError(EcgError):
    """A checkpoint can't be written or read, or belongs to another run."""


class DivergedError(EcgError):
    """The loss or its gradient is no longer a number.

    ``parts`` are the loss's parts at ``step``, ``rows`` the store's row numbers of the records in that batch.
    """

    def __init__(self, step: int, parts: Mapping[str, float], rows: Sequence[int]) -> None:
        self.step, self.parts, self.rows = step, dict(parts), tuple(int(row) for row in rows)
        shown = ", ".join(str(row) for row in self.rows[:8]) + (", …" if len(self.rows) > 8 else "")
        super().__init__(
            "training diverged: loss or gradient is not finite",
            where=f"step {step}, records at rows {shown}",
            got=", ".join(f"{name} {value:.6g}" for name, value in self.parts.items()),
            fix="lower the learning rate, set optimiser.clip_norm, or look at these records",
        )


class LeakageError(EcgError):
    """A patient or record would be seen by both sides of a split."""


class ProtocolError(EcgError):
    """A protocol can't be followed with the records at hand."""


class PassportError(EcgError):
    """Signals were prepared differently from those the model was trained on."""
