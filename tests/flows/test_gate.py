import math
from typing import Any

from flows.gate import judge


def evaluation(**changes: Any) -> dict[str, Any]:
    record = {
        "active_units": 4,
        "log_marginal_per_row": [-1.0, -2.0, -3.0, -2.5, -1.5, -2.2],
        "independent_per_row": [-5.0, -6.2, -7.1, -6.0, -5.4, -6.3],
    }
    return record | changes


def passed(record: dict[str, Any], champion: list[float] | None = None) -> bool:
    verdict = judge(record, min_active_units=1, confidence=0.95, champion_nats=champion)
    return verdict.passed


def test_a_first_model_needs_no_champion_to_beat() -> None:
    assert passed(evaluation())


def test_a_collapsed_posterior_does_not_pass() -> None:
    assert not passed(evaluation(active_units=0))


def test_a_model_no_better_than_independent_columns_does_not_pass() -> None:
    record = evaluation()

    assert not passed(record | {"independent_per_row": record["log_marginal_per_row"]})


def test_a_challenger_must_win_by_more_than_noise() -> None:
    record = evaluation()
    noisy = [
        value + shift
        for value, shift in zip(
            record["log_marginal_per_row"], (0.9, -1.0, 0.8, -1.0, 0.7, -0.9), strict=True
        )
    ]
    worse = [value - 0.5 for value in record["log_marginal_per_row"]]

    assert not passed(record, champion=noisy)
    assert passed(record, champion=worse)


def test_a_row_that_one_model_rules_out_decides() -> None:
    record = evaluation()
    impossible = [-math.inf, *record["log_marginal_per_row"][1:]]

    assert passed(record, champion=impossible)
    assert not passed(record | {"log_marginal_per_row": impossible}, champion=impossible)
    recorded = [None, *record["log_marginal_per_row"][1:]]
    assert not passed(record | {"log_marginal_per_row": recorded})


def test_the_reason_gives_the_numbers() -> None:
    record = evaluation()
    worse = [value - 0.5 for value in record["log_marginal_per_row"]]

    verdict = judge(record, min_active_units=1, confidence=0.95, champion_nats=worse)

    assert verdict.checks[-1].evidence == (
        "better than the champion: log p(x) differs by +0.500 ± 0.000 nats on 6 test rows"
    )
