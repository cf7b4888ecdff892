"""The gate before the alias `champion` moves: evidence in, a verdict out, no side effects.

A challenger becomes champion when its posterior has not collapsed, it explains held-out rows
better than independent columns do, and better than the champion on the same rows by a paired
test. A first model needs the first two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any


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
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def judge(
    evaluation: Mapping[str, Any],
    *,
    min_active_units: int,
    confidence: float,
    champion_nats: Sequence[float] | None,
) -> Verdict:
    """Judge a challenger by its evaluation record.

    `champion_nats` holds the champion's log p(x) of the same rows, in the same order as
    `evaluation["log_marginal_per_row"]`; None when there is no champion.
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
                "better than the champion",
                evaluation["log_marginal_per_row"],
                champion_nats,
                confidence,
            )
        )
    return Verdict(tuple(checks))


def _paired(
    name: str, ours: Sequence[float], theirs: Sequence[float], confidence: float
) -> Check:
    """One-sided paired test of log p(x): the lower end of the mean difference is above zero.

    A row that one model holds for impossible (log p(x) = -inf) decides alone.
    """
    if any(value == -math.inf for value in ours):
        return Check(name, passed=False, evidence=f"not {name}: it rules out a test row")
    if any(value == -math.inf for value in theirs):
        return Check(name, passed=True, evidence=f"{name}: the other rules out a test row")
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = fmean(differences)
    stderr = (
        stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    )
    passed = mean - NormalDist().inv_cdf(confidence) * stderr > 0
    return Check(
        name,
        passed,
        f"{'' if passed else 'not '}{name}: log p(x) differs by {mean:+.3f} ± {stderr:.3f} nats "
        f"on {len(ours)} test rows",
        nats=mean,
        stderr=stderr if math.isfinite(stderr) else None,
    )
