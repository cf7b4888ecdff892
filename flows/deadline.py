"""The end of a run's time: work is stopped at a boundary, and what was made is kept."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.utilities.timeout import timeout


class RunTimeoutError(TimeoutError):
    """The run took longer than its spec allows; Prefect calls its state TimedOut."""


@contextmanager
def given_up_after(seconds: float) -> Iterator[None]:
    """Stop what runs inside when its time is over.

    Prefect's own `timeout_seconds` belongs to a flow, not to a run of it. Of two alarms in one
    thread only the outer one rings, so that a flow whose body is in here has none of its own.

    Raises:
        RunTimeoutError: it is over.
    """
    try:
        with timeout(seconds=seconds, timeout_exc_type=RunTimeoutError):
            yield
    except RunTimeoutError:
        raise RunTimeoutError(
            f"the run was stopped after {seconds:g} s (schedule.timeout_s); what it made is kept: "
            f"run it again and it goes on from there"
        ) from None
