"""One function over many shards: a plain loop here, or the same function as tasks of Ray's.

A shard's result is a function of the shard, and what it writes is written once
(`data.publication`): a shard that runs twice does no harm. So a task keeps no state, is tried
again when its worker or its node dies, and what comes out is the same on any engine.

Ray is the extra `cluster`, and imported only where `engine = "ray"` asks for it.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import islice
from typing import Any

from data.shards import Mapper, Result, Shard
from flows.progress import advance
from flows.spec import ExecutionSection, SpecError

RETRIES = 3  # of a shard whose worker or node died
TASKS_A_SLOT = 2  # under way: one that runs and one that waits
OPTIONS: dict[str, dict[str, Any]] = {  # of a task, by what it runs on
    "CPU": {"max_retries": RETRIES, "retry_exceptions": [OSError]},
    # The process holds the model, and is not given up after each task.
    "GPU": {
        "max_retries": RETRIES,
        "retry_exceptions": [OSError],
        "num_gpus": 1,
        "max_calls": 0,
    },
}
OBJECT_STORE_BYTES = 256 << 20  # on this machine; results of shards are small


class ShardError(RuntimeError):
    """Some shards failed; all others are done, and are not done again."""


@contextmanager
def engine(wanted: ExecutionSection, stage: str, *, device: str = "cpu") -> Iterator[Mapper]:
    """Yield what maps a function over shards: the built-in `map`, or Ray.

    Ray is started, or joined, when the first shards come, and left at the end of the block. Where
    shards compute on a GPU, a task has one to itself.

    Raises:
        SpecError: Ray is wanted and not installed, or has no GPU where one is wanted.
        ShardError: after the last shard, if some failed on Ray; the built-in raises at the first.
    """
    if wanted.engine == "local":
        yield map
        return
    with ExitStack() as session:

        @cache
        def ray() -> Any:
            found = connected(wanted.address)
            session.callback(found.shutdown)
            return found

        yield partial(_map_on_ray, ray, stage, "CPU" if device == "cpu" else "GPU")


def connected(address: str | None) -> Any:
    """Join the cluster at `address` or $RAY_ADDRESS, else start Ray on this machine alone.

    The latter listens on the loopback interface, with a token, and reports nothing.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {}
    if address == "local":
        # Read when Ray is imported: every socket on 127.0.0.1, as on a laptop.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        import ray
    except ModuleNotFoundError:
        raise SpecError(
            "engine 'ray' needs Ray: pip install 'latent-features[cluster]'"
        ) from None
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    return ray


def _map_on_ray(
    joined: Callable[[], Any],
    stage: str,
    slot: str,
    work: Callable[[Shard], Result],
    shards: Iterable[Shard],
    /,
) -> Iterator[Result]:
    """Yield `work(shard)` in order; a shard that fails is named at the end, when the rest is done."""
    ray = joined()
    under_way = TASKS_A_SLOT * _slots(ray, slot)
    task = ray.remote(scheduling_strategy="SPREAD", **OPTIONS[slot])(_call)
    shared, waiting = ray.put(work), enumerate(shards)
    names: dict[int, str] = {}
    running: dict[Any, int] = {}
    finished: dict[int, Any] = {}
    failed: list[str] = []
    place = done = 0
    while True:
        for number, shard in islice(waiting, under_way - len(running)):
            names[number] = str(shard)
            running[task.remote(shared, shard)] = number
        if place == len(names):
            break
        if place not in finished:
            for reference in ray.wait(list(running), num_returns=1)[0]:
                finished[running.pop(reference)] = reference
                done += 1
                advance(stage, done, len(names), "shards")
            continue
        try:
            result = ray.get(finished.pop(place))
        except ray.exceptions.RayError as error:
            failed.append(f"{names[place]}: {_reason(error)}")
        else:
            yield result
        place += 1
    if failed:
        raise ShardError(
            f"{len(failed)} of {place} shards failed, the others are done:\n  "
            + "\n  ".join(failed)
            + "\nRun again when the cause is gone: only what failed is done then."
        )


def _slots(ray: Any, slot: str) -> int:
    """How many tasks may run at once."""
    there = int(ray.cluster_resources().get(slot, 0))
    if slot == "GPU" and not there:
        raise SpecError("execution.device is a GPU, and Ray's cluster has none")
    return max(1, there)


def _call(work: Callable[[Shard], Result], shard: Shard) -> Result:
    return work(shard)


def _reason(error: Exception) -> str:
    """The first line of what a shard raised, or of what happened to its process."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
