"""The journal of champions, in tags of the registered model: MLflow keeps no history of aliases.

Every entry is a tag of its own: a server writes tags one by one, so that of two writers none
loses an entry.
"""

import time
from collections.abc import Mapping

TAG = "latents.champion."  # followed by the time in ns, and the version


def entry(version: int) -> tuple[str, str]:
    """Return the tag, key and value, that says that `version` becomes champion now."""
    return f"{TAG}{time.time_ns()}.{version}", str(version)


def entries(tags: Mapping[str, str]) -> list[int]:
    """Return the versions in the order of the times at which they were written down."""
    keys = [key for key in tags if key.startswith(TAG)]
    keys.sort(key=lambda key: int(key.removeprefix(TAG).partition(".")[0]))
    return [int(tags[key]) for key in keys]
