"""The error tree of the training house; it hangs from the data house's ``EcgError``.

    EcgError                     what happened · where · expected · got · what to do
    ├── CheckpointError          a checkpoint can't be written or read, or belongs to another run
    ├── ClaimedError             another process is at work in a run's directory
    ├── DivergedError            the loss or its gradient is no longer a number; .step, .parts, .record_ids
    ├── LeakageError             a patient or record would be seen by both sides of a split
    ├── PassportError            signals were prepared differently from those the model was trained on
    ├── ProtocolError            a protocol can't be followed with the records at hand
    ├── RankLostError            another process of a distributed run has ended
    └── StoppedError             a run was told to stop, and can be resumed

Every error is one readable line, and pickles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecgstore import EcgError


class CheckpointError(EcgError):
    """A checkpoint can't be written or read, or belongs to another run."""


class ClaimedError(EcgError):
    """Another process is at work in a run's directory, or whether one is can't be known."""


class DivergedError(EcgError):
    """The loss or its gradient is no longer a number; the weights of the step before are still good.

    ``parts`` are the loss and its parts at ``step``, ``record_ids`` name the records in that batch (of a
    distributed run: in the slices that gave no number).
    """

    def __init__(self, step: int, parts: Mapping[str, float], record_ids: Sequence[str]) -> None:
        self.step, self.parts, self.record_ids = step, dict(parts), tuple(record_ids)
        shown = ", ".join(self.record_ids[:8]) + (", …" if len(self.record_ids) > 8 else "")
        super().__init__(
            "training diverged: loss or gradient is not finite",
            where=f"step {step}, records {shown}",
            got=", ".join(f"{name} {value:.6g}" for name, value in self.parts.items()),
            fix="lower the learning rate, set optimiser.clip_norm, or look at these records",
        )


class LeakageError(EcgError):
    """A patient or record would be seen by both sides of a split."""


class ProtocolError(EcgError):
    """A protocol can't be followed with the records at hand."""


class PassportError(EcgError):
    """Signals were prepared differently from those the model was trained on."""


class RankLostError(EcgError):
    """Another process of a distributed run has ended, or is no longer heard of."""


class StoppedError(EcgError):
    """A run was told to stop before its end; a checkpoint was written first, or what was answered is kept."""
