"""One thread, one hypothesis profile, and the note that statistical tests refer to.

Note [Statistical tests]
    Every test that draws random numbers fixes its seed. Its tolerance is derived in a
    comment (standard error times the z of a failure rate of 1e-3), not tuned. A seed may be
    changed once, with a reason; if the test fails again, the code is wrong.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

SERVERS = ("stack: Stack", "prefect_server: str")  # arguments of tests that need servers


class ByServers(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests go to one worker of xdist; those that ask for servers, all to the same."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        text = (Path(self.config.rootpath) / file).read_text("utf-8")
        return "servers" if any(argument in text for argument in SERVERS) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServers:
    """Start the servers once, whatever the number of workers."""
    return ByServers(config, log)
