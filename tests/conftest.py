"""One thread, one hypothesis profile, and the note that statistical tests refer to.

Note [Statistical tests]
    Every test that draws random numbers fixes its seed. Its tolerance is derived in a
    comment (standard error times the z of a failure rate of 1e-3), not tuned. A seed may be
    changed once, with a reason; if the test fails again, the code is wrong.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # nobody is told; so our commands have it

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

GROUPS = {  # of files that share servers, by what stands in them
    "runs of a worker of the servers": (" deploy(",),
    "runs beside servers": ("stack: Stack", "prefect_server: str"),
}


class ByServers(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests go to one worker of xdist; those of a group, all to the same."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return group_of(Path(self.config.rootpath) / file) or file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServers:
    """Start servers twice, whatever the number of workers."""
    config.option.loadscopereorder = False  # files come in the order of their tests
    return ByServers(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups first: they take longest, and other tests fill in where one has ended."""
    items.sort(key=lambda item: group_of(item.path) is None)


@cache
def group_of(file: Path) -> str | None:
    """The group that a file of tests belongs to, if any."""
    text = file.read_text("utf-8")
    return next((name for name, marks in GROUPS.items() if any(m in text for m in marks)), None)
