"""A session: what ends a command, and the exit code that says so."""

import os
import signal
from pathlib import Path

import pytest
import typer

from flows.exits import INTERRUPTED, TERMINATED
from flows.session import session


class _Signalled:
    """Named in a class's body, sends this process a signal: libraries do much as they load."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __set_name__(self, owner: type, name: str) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)]
)
def test_a_signal_that_python_wraps_in_another_error_is_still_a_signal(
    number: signal.Signals, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, session(str(tmp_path)):
        type("Loading", (), {"field": _Signalled(number)})

    assert ended.value.exit_code == code
    assert "run the same command again to resume" in capsys.readouterr().err
