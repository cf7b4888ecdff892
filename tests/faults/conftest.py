"""The fault suite counts what it tries, and prints it: promise or row, cases, failures.

A test says what it tried with `cases("2a torn part", 60)`, as often as it likes; one that
says nothing is a case of its own, under its name. The table comes with `make faults`.
"""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

import pytest

from tests.faults.effort import WHOLE

REPORT = pytest.StashKey[pytest.TestReport]()


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


@pytest.fixture(autouse=True)
def cases(request: pytest.FixtureRequest) -> Iterator[Cases]:
    """Count cases by promise or row; a test that fails counts against each row it named."""
    tried: dict[str, int] = defaultdict(int)

    def count(row: str, number: int = 1) -> None:
        tried[row] += number

    yield count
    report = request.node.stash.get(REPORT, None)
    if report is None or report.skipped:
        return
    named = tried or {_words(request.node.name): 1}
    for row, number in named.items():
        TABLE[row].cases += number
        TABLE[row].failures += report.failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or (report.when == "setup" and not report.passed):
        item.stash[REPORT] = report
        if report.skipped and isinstance(report.longrepr, tuple):
            SKIPPED[_words(item.name)] = report.longrepr[2].removeprefix("Skipped: ")
    return report


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


def _words(name: str) -> str:
    return name.partition("[")[0].removeprefix("test_").replace("_", " ")
