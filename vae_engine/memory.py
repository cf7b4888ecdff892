"""What to do when a step does not fit into memory: take the batch in more and smaller parts."""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass
class Parts:
    """In how many parts a batch is taken: one, until memory runs out."""

    count: int = 1

    def run(self, attempt: Callable[[int], Result], most: int) -> Result:
        """Return attempt(count), having doubled the count until it fits, or passed `most`.

        An attempt starts afresh each time; what it leaves behind must not matter.

        Raises:
            RuntimeError: it does not fit in `most` parts either.
        """
        while True:
            try:
                return attempt(self.count)
            except RuntimeError as error:
                if not is_out_of_memory(error) or 2 * self.count > most:
                    raise
            self.count *= 2
            logger.warning("out of memory: going on with batches in %d parts", self.count)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: on a device, or on the host, for which there is no class."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
