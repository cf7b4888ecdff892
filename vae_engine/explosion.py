"""When a training has left for good: its objective is many times worse than it was, and stays so."""

from dataclasses import dataclass, field
from statistics import median

WINDOW = 25  # steps: one bad batch is not an explosion
TIMES_WORSE = 10.0


@dataclass
class Watch:
    """Compare the running median of the objective with the best it has been, in nats per row.

    What a bound is worth depends on the data, so the distance is taken in sizes of the best one;
    the first value, of weights that nothing has moved yet, counts as one. While the KL is warmed
    up the objective falls by itself, and nothing is compared.
    """

    recent: list[float] = field(default_factory=list)
    best_nats: float | None = None

    def exploded(self, objective_nats: float, *, warmed_up: bool = True) -> bool:
        """Take note of one step's objective; True where the last ones have left for good."""
        if self.best_nats is None:
            self.best_nats = objective_nats
        if not warmed_up:
            return False
        self.recent = [*self.recent[-(WINDOW - 1) :], objective_nats]
        if len(self.recent) < WINDOW:
            return False
        typical = median(self.recent)
        if typical < self.best_nats - TIMES_WORSE * (1 + abs(self.best_nats)):
            return True
        self.best_nats = max(self.best_nats, typical)
        return False
