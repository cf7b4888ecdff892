"""RELIABILITY 2a, clock backwards or far ahead: names, order and content come from no wall clock."""

import shutil
import time
from collections.abc import Callable
from functools import partial
from operator import call
from pathlib import Path

import pytest

from data.garbage import collect, stale_staging
from data.snapshot import open_snapshot
from flows.ingest import ingest_dataset
from flows.runs import read_record
from flows.settings import Home
from tests.faults.conftest import Cases
from tests.faults.crashes import succeeds
from tests.faults.effort import whole_or
from tests.faults.small import contents, spec_of, trained, written
from tests.flows.test_encode import encoded

DAY_S = 86_400.0


@pytest.mark.parametrize("shift_s", whole_or([-DAY_S, 3652 * DAY_S], [-DAY_S]))
def test_clock(tmp_path: Path, shift_s: float, cases: Cases) -> None:
    """A run begun at one time and ended at another is the run, file for file."""
    spec, home = spec_of(written(tmp_path)), Home(tmp_path / "home")

    def begin() -> None:
        ingest_dataset(spec, home)

    def end() -> None:
        run = trained(spec, home)
        snapshot = open_snapshot(Path(ingest_dataset(spec, home).value["path"]))
        digest = read_record(run.record("trained"))["digest"]
        encoder = {"name": "small", "version": 1, "digest": digest, "champion": True}
        encoded(home, snapshot, {**encoder, "folder": str(run.model)})

    outcomes = []
    for first_s, then_s in ((0.0, 0.0), (0.0, shift_s), (shift_s, 0.0)):
        shutil.rmtree(home.root, ignore_errors=True)
        in_process = (
            succeeds if first_s or then_s else call
        )  # here first: children are warm then
        in_process(partial(at, first_s, begin))
        in_process(partial(at, then_s, end))
        cases("2a clock backwards, clock ahead")
        models = [contents(path) for path in home.runs.glob("*/model")]
        outcomes.append([contents(home.datasets), contents(home.features), models])

    assert outcomes[0] == outcomes[1] == outcomes[2]


def at(shift_s: float, act: Callable[[], object]) -> None:
    """Act with another clock than the machine has."""
    clock, clock_ns = time.time, time.time_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: clock() + shift_s)
        patch.setattr(time, "time_ns", lambda: clock_ns() + int(shift_s * 1e9))
        act()


def test_what_looks_young_after_the_clock_went_back_is_kept(tmp_path: Path) -> None:
    """Clearing away trusts no time in the future: it waits rather than removes."""
    left = tmp_path / ".staging" / "abc"
    left.mkdir(parents=True)

    succeeds(partial(at, -DAY_S, lambda: kept(tmp_path)))

    assert left.exists()
    assert list(stale_staging(tmp_path)) == []


def kept(root: Path) -> None:
    assert collect(stale_staging(root)) == (0, 0)
