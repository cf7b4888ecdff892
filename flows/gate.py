"""The gate before the alias `champion` moves: evidence in, a verdict out, no side effects.

A challenger becomes champion when its posterior has not collapsed, it explains held-out rows
better than independent columns do, and better than the champion on the same rows by a paired
test. A first model needs the first two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vae_engine.comparison import paired_difference

CHAMPION_CHECK = "better than the champion"


class GateError(RuntimeError):
    """There is no champion, and this model may not become one: nothing is published."""


@dataclass(frozen=True)
class Check:
    """One question that the gate asked: what was seen, what was asked for, and whether it holds.

    `nats` and `stderr` are the mean difference of a paired test, None where there was none.
    """

    name: str
    passed: bool
    evidence: str
    nats: float | None = None
    stderr: float | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Verdict:
    """All the checks; the model passes when each one does."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """The checks that failed, or that all passed, in one line."""
        failed = [check.evidence for check in self.checks if not check.passed]
        return "; ".join(failed) or "; ".join(check.evidence for check in self.checks)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for a record and for MLflow."""
        value = {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}
        for check in self.checks:
            if check.name == CHAMPION_CHECK and check.stderr is not None:
                value["comparison"] = {
                    "difference_nats": check.nats,
                    "stderr": check.stderr,
                    "rows": check.rows,
                }
        return value


def judge(
    evaluation: Mapping[str, Any],
    *,
    min_active_units: int,
    confidence: float,
    champion_nats: Sequence[float] | None,
) -> Verdict:
    """Judge a challenger by its evaluation record.

    `champion_nats` holds the champion's log p(x) of the same rows, in the same order as
    `evaluation["log_marginal_per_row"]` (where a row that is impossible is None); None when
    there is no champion.
    """
    active = int(evaluation["active_units"])
    checks = [
        Check(
            "no collapse",
            active >= min_active_units,
            f"{active} active units, {min_active_units} asked for",
        ),
        _paired(
            "better than independent columns",
            evaluation["log_marginal_per_row"],
            evaluation["independent_per_row"],
            confidence,
        ),
    ]
    if champion_nats is not None:
        checks.append(
            _paired(
                CHAMPION_CHECK,
                evaluation["log_marginal_per_row"],
                champion_nats,
                confidence,
            )
        )
    return Verdict(tuple(checks))


def _paired(
    name: str,
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    confidence: float,
) -> Check:
    """One-sided paired test of log p(x): the lower end of the mean difference is above zero.

    A row that one model alone holds for impossible (log p(x) = -inf) decides; a row impossible
    under both is a tie. No row is dropped.
    """
    found = paired_difference(
        _nats(ours),
        _nats(theirs),
        confidence=2 * confidence - 1,  # of the two-sided interval with this lower end
    )
    passed, word = found.first_is_better, "" if found.first_is_better else "not "
    if not math.isfinite(found.difference_nats):
        ruled_out = (
            f"it rules out {found.impossible_under_first} of {found.rows} test rows, "
            f"the other {found.impossible_under_second}"
        )
        return Check(name, passed, f"{word}{name}: {ruled_out}", rows=found.rows)
    return Check(
        name,
        passed,
        f"{word}{name}: log p(x) differs by {found.difference_nats:+.3f} ± "
        f"{found.stderr:.3f} nats on {found.rows} test rows",
        nats=found.difference_nats,
        stderr=found.stderr if math.isfinite(found.stderr) else None,
        rows=found.rows,
    )


def _nats(values: Sequence[float | None]) -> Tensor:
    known = [-math.inf if value is None else value for value in values]
    return torch.tensor(known, dtype=torch.float64)
