"""Where the time went: what a run took beyond its stages, and before it began."""

from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

from flows.profiling import age_s, profiled
from flows.settings import Home


def test_the_age_of_this_process_grows_with_time() -> None:
    before = age_s()
    sleep(0.1)

    assert 0.09 < age_s() - before < 5
    assert before > 0


def test_stages_and_what_is_beyond_them_add_up(tmp_path: Path) -> None:
    def run(load: Callable[[], None]) -> dict[str, dict[str, dict[str, float]]]:
        load()
        sleep(0.3)
        return {"stages": {"ingest": {"seconds": 0.1}, "train": {"seconds": 0.0}}}

    profile = profiled(run, Home(tmp_path))["profile"]

    assert profile["stages"] == {"ingest": 0.1, "train": 0.0}
    assert profile["overhead"]["Prefect: import, server, flow and tasks"] == pytest.approx(
        0.2, abs=0.1
    )
    assert min(profile["overhead"].values()) >= 0
    assert sum(profile["overhead"].values()) == pytest.approx(profile["overhead_s"], abs=0.01)
    assert profile["total_s"] == pytest.approx(profile["overhead_s"] + 0.1, abs=0.01)
