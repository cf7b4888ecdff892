"""How much the fault suite tries: all of it under `make faults`, a part under `make test`."""

import os
from typing import TypeVar

T = TypeVar("T")

WHOLE = os.environ.get("FAULTS") == "whole"


def whole_or(everything: T, part: T) -> T:
    """The first under `make faults` (FAULTS=whole), else the second."""
    return everything if WHOLE else part
