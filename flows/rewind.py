"""One second chance for a training that explodes: back to where it was good, at a lower rate.

A rate that is too high throws the weights so far off that no later step brings them back. Most
often a tenth of it is not; where it is, the second explosion ends the training.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

from flows.runs import RunFolder
from vae_engine import checkpoint
from vae_engine.divergence import ExplodedError
from vae_engine.explosion import Watch
from vae_engine.training import Batch, StepReport, TrainState, fit

logger = logging.getLogger(__name__)

LOWER = 0.1  # the second rate, of the first


def reports(
    state: TrainState,
    batches: Callable[[], Iterable[Batch]],
    *,
    report_every: int,
    go_back: Callable[[], None],
) -> Iterator[StepReport]:
    """Yield the reports of a training; where it explodes, `go_back` once, and yield on from there.

    `batches` are those from `state.step` on.

    Raises:
        ExplodedError: it has exploded a second time.
    """
    try:
        yield from fit(state, batches(), report_every=report_every)
    except ExplodedError as error:
        if state.rate_factor < 1:
            raise
        logger.warning("%s\nGoing back, once, for a lower learning rate.", error)
        go_back()
        yield from fit(state, batches(), report_every=report_every)


def rewind(state: TrainState, folder: RunFolder, begin: Callable[[], TrainState]) -> None:
    """Bring `state` to its best validation, or to the beginning before there was one.

    It goes on at a lower rate; in how many parts its batches fit is not forgotten.
    """
    parts = state.parts.count
    if checkpoint.load_latest(folder.best, state) is None:
        state.take(begin())
    state.parts.count = parts
    state.rate_factor = LOWER
    state.watch = Watch(best_nats=state.watch.best_nats)
