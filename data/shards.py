"""What maps a function over shards of a table: the built-in `map`, or a cluster."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Shard = TypeVar("Shard")
Result = TypeVar("Result")


class Mapper(Protocol):
    """Yields `work(shard)` of each shard, in order."""

    def __call__(
        self, work: Callable[[Shard], Result], shards: Iterable[Shard], /
    ) -> Iterator[Result]:
        """Map `work` over `shards`, which are made as they are asked for."""
