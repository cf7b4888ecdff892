"""The fault suite counts what it tries, and prints it: promise or row, cases, failures.

A test says what it tried with `cases("2a torn part", 60)`, as often as it likes; one that
says nothing is a case of its own, under its name. The table comes with `make faults`.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pytest

from tests.faults.effort import WHOLE


class Cases(Protocol):
    """Takes note of what was tried."""

    def __call__(self, row: str, number: int = 1) -> None: ...


@dataclass
class Tried:
    """A line of the table."""

    cases: int = 0
    failures: int = 0


TABLE: dict[str, Tried] = defaultdict(Tried)
SKIPPED: dict[str, str] = {}


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> Cases:
    """Count cases by promise or row; a test that fails counts against each row it named."""

    def count(row: str, number: int = 1) -> None:
        request.node.user_properties.append(("tried", (row, number)))

    return count


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Enter a test into the table; a worker of xdist sends its reports to the one who prints."""
    if not report.nodeid.startswith("tests/faults/"):
        return
    name = report.nodeid.rpartition("::")[2].partition("[")[0]
    words = name.removeprefix("test_").replace("_", " ")
    if report.skipped and isinstance(report.longrepr, tuple):
        SKIPPED[words] = report.longrepr[2].removeprefix("Skipped: ")
    if (report.when != "call" and not report.failed) or report.skipped:
        return
    tried: list[tuple[str, int]] = [
        (str(value[0]), int(value[1]))
        for key, value in report.user_properties
        if key == "tried" and isinstance(value, tuple | list)
    ]
    for row, number in tried or [(words, 1)]:
        TABLE[row].cases += number
    for row in {row for row, _ in tried} or {words}:
        TABLE[row].failures += report.failed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not WHOLE or not TABLE:
        return
    wide = max(map(len, [*TABLE, *SKIPPED, "promise or row"]))
    terminalreporter.section("faults")
    line: Callable[[str], None] = terminalreporter.write_line
    line(f"{'promise or row':{wide}}  {'cases':>7}  {'failures':>8}")
    for row, tried in sorted(TABLE.items()):
        line(f"{row:{wide}}  {tried.cases:>7}  {tried.failures:>8}")
    for name, reason in sorted(SKIPPED.items()):
        line(f"{name:{wide}}  skipped: {reason}")
    total = sum(tried.cases for tried in TABLE.values())
    failures = sum(tried.failures for tried in TABLE.values())
    line(f"{'together':{wide}}  {total:>7}  {failures:>8}")
