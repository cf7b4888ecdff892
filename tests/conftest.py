"""One thread, one hypothesis profile, and the note that statistical tests refer to.

Note [Statistical tests]
    Every test that draws random numbers fixes its seed. Its tolerance is derived in a
    comment (standard error times the z of a failure rate of 1e-3), not tuned. A seed may be
    changed once, with a reason; if the test fails again, the code is wrong.
"""

import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

SHARED = ("stack", "finished")  # session fixtures that cost more than the tests that use them


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give all tests that share servers or a finished run to one worker of xdist, and first."""

    def group(item: pytest.Item) -> str:
        fixtures = getattr(item, "fixturenames", ())
        return next((name for name in SHARED if name in fixtures), str(item.path))

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: group(item) not in SHARED)
