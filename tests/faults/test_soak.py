"""The soak in its short form; whole: `python -m tests.faults.soak --runs 200`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Cases
from tests.faults.effort import WHOLE


def test_soak(tmp_path: Path, cases: Cases) -> None:
    """In a process of its own, whose children can be counted in the end."""
    if not WHOLE:
        pytest.skip("the soak is of make faults")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", "--runs", "25", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "nothing amiss" in done.stdout
    counted = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines()[:-1])
    for what, number in counted.items():
        cases(f"soak: {what.strip()}", int(number))
