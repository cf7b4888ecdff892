"""When to stop, and which weights were best: by the bound of the validation rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class EarlyStopping:
    """Follow the bound of the validation rows (beta = 1), in nats, higher is better.

    Its state goes into a checkpoint's `extra` (`to_mapping`) and comes back (`from_mapping`).
    """

    patience: int | None  # validations without a better one; None: never stop
    after_step: int = 0  # up to it, while the KL is warmed up, none counts against patience
    best_nats: float | None = None
    best_step: int | None = None
    worse_since: int = 0

    def offer(self, step: int, bound_nats: float) -> bool:
        """Take note of a validation; True where it is the best so far.

        A value that is not a number is never the best, and counts against patience.
        """
        if not math.isnan(bound_nats) and (
            self.best_nats is None or bound_nats > self.best_nats
        ):
            self.best_nats, self.best_step, self.worse_since = bound_nats, step, 0
            return True
        self.worse_since += step > self.after_step
        return False

    @property
    def exhausted(self) -> bool:
        """Patience is at its end."""
        return self.patience is not None and self.worse_since >= self.patience

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values that `from_mapping` reads back."""
        return {
            "best_nats": self.best_nats,
            "best_step": self.best_step,
            "worse_since": self.worse_since,
        }

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], patience: int | None, after_step: int = 0
    ) -> "EarlyStopping":
        """Go on where a checkpoint left off."""
        return cls(patience, after_step, **mapping)
