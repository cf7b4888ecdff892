"""Where the time of a command goes: its start, its libraries, MLflow, Prefect, and the stages."""

import importlib
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flows.settings import Home

LIBRARIES = {  # in this order: what one of them has imported costs the next nothing
    "torch": "torch",
    "pandas, pyarrow": "pandas",
    "MLflow": "mlflow",
    "scikit-learn": "sklearn",
    "our own": "flows.pipeline",
}


def profiled(
    run: Callable[[Callable[[], None]], Mapping[str, Any]], home: Home
) -> dict[str, Any]:
    """Run the pipeline; its summary, and under `profile` where the time went, in seconds.

    `run` is given what loads the libraries, and may do something else meanwhile. The last line
    of the overhead is what a run took beyond these and its stages: the rest of a server's start
    where none runs, the states of the flow and its tasks.
    """
    spent = {"start": age_s()}

    def load() -> None:
        for name, module in LIBRARIES.items():
            spent[f"import {name}"] = _elapsed_s(partial(importlib.import_module, module))
        spent["MLflow: open the store"] = _elapsed_s(partial(_open_store, home))

    started = time.perf_counter() - spent["start"]
    summary = dict(run(load))
    whole_s = time.perf_counter() - started
    stages = {name: stage["seconds"] for name, stage in summary["stages"].items()}
    beyond_s = whole_s - sum(spent.values()) - sum(stages.values())
    spent["Prefect: import, server, flow and tasks"] = beyond_s
    overhead_s = sum(spent.values())
    summary["profile"] = {
        "overhead": {name: round(seconds, 3) for name, seconds in spent.items()},
        "stages": stages,
        "overhead_s": round(overhead_s, 3),
        "total_s": round(overhead_s + sum(stages.values()), 3),
    }
    return summary


def age_s() -> float:
    """Seconds since this process began."""
    after_the_name = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
    ticks = int(after_the_name[19])  # field 22 of proc(5), starttime
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _open_store(home: Home) -> None:
    from flows import tracking

    tracking.model_names(home)


def _elapsed_s(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
