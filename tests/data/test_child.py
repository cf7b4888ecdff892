import os
from pathlib import Path

import pytest

import data.child
from data.child import Process

ECHO = """
from data.child import ask, say, send
content = ask(3, 70_000)
send(content[::-1])
say({"length": len(content)})
"""


@pytest.fixture
def child(tmp_path: Path) -> Process:
    (tmp_path / "echo_of_test.py").write_text(ECHO)
    here = Path(data.child.__file__).parents[1]
    child = Process("echo_of_test", {"PYTHONPATH": f"{tmp_path}:{here}"})
    child.left_s = 60.0
    return child


def test_ranges_are_asked_for_and_bytes_come_back(child: Process) -> None:
    content = os.urandom(70_000)
    assert child.hear() == {"wants": [3, 70_000]}
    child.tell(content)

    assert child.hear() == {"sends": 70_000}
    assert bytes(child.receive(70_000)) == content[::-1]
    assert child.hear() == {"length": 70_000}
    with pytest.raises(EOFError):
        child.hear()
    child.stop()


def test_only_what_is_waited_for_counts(child: Process) -> None:
    child.hear()
    child.left_s = 0.05

    with pytest.raises(TimeoutError):
        child.hear()
    child.stop()
