"""A session: what ends a command, and the exit code that says so."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel, model_serializer

from flows.exits import INTERRUPTED, TERMINATED
from flows.session import session


class _Signalled:
    """Named in a class's body, sends this process a signal: libraries do much as they load."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __set_name__(self, owner: type, name: str) -> None:
        os.kill(os.getpid(), self.number)


class _Written(BaseModel):
    number: signal.Signals

    @model_serializer
    def _signalled(self) -> str:
        os.kill(os.getpid(), self.number)
        return ""


def in_a_class(number: signal.Signals) -> None:
    type("Loading", (), {"field": _Signalled(number)})


def in_a_serializer(number: signal.Signals) -> None:
    _Written(number=number).model_dump()


@pytest.mark.parametrize("work", [in_a_class, in_a_serializer])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)]
)
def test_a_signal_that_is_wrapped_in_another_error_is_still_a_signal(
    number: signal.Signals,
    code: int,
    work: Callable[[signal.Signals], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A job of nohup, as this may be, ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(typer.Exit) as ended, session(str(tmp_path)):
            work(number)
    finally:
        signal.signal(signal.SIGINT, before)

    assert ended.value.exit_code == code
    assert "run the same command again to resume" in capsys.readouterr().err
