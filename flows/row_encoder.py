"""The features of many rows: reading, computing and laying out at the same time.

    one thread     decodes the next rows of the snapshot
    a thread each  for every core: cells -> x -> q(z | x), a chunk of rows at a time
    the caller     gets the features of whole parts, in order, and writes them

On a GPU the threads go as far as x, and the caller sends chunk after chunk there and back.

A batch of some hundred rows stays in a core's cache, and two cores with a batch each are faster
than two cores at one batch. Memory is bounded by a few chunks of rows and the features of two
parts, however many rows there are. A row's features do not depend on any of this: batches have
a fixed number of rows (`vae_engine.encoding`) and each is computed by one thread.
"""

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from data.contract import ROW_ID, Contract
from data.features import features_table
from data.part_rows import part_rows
from data.preprocessing import Preprocessor
from data.read_ahead import read_ahead
from data.snapshot import Snapshot
from flows import handoff
from flows.device_feed import through
from flows.handoff import Rows
from flows.progress import advance
from flows.spec import EncodingSection
from vae_engine.binarization import binarized_for_evaluation
from vae_engine.encoding import Encoder
from vae_engine.model import VAE
from vae_engine.noise import keyed_noise
from vae_engine.objectives import elbo
from vae_engine.workers import one_thread

CHUNK_ENTRIES = 2**22  # of x, what a worker has in hand: 16 MB as float32
MAX_WORKERS = 8
NOISE_SEED = 0  # of samples and bounds on request: part of the publication's identity by format
ELBO_SAMPLES = 8

NO_KEYS = torch.empty(0, dtype=torch.int64)  # where nothing is drawn

Floats = npt.NDArray[np.float32]
Item = TypeVar("Item")
Result = TypeVar("Result")


class EncodedPart(NamedTuple):
    """The features of one part, row for row, and what the preprocessor had to count."""

    number: int
    table: pa.Table
    counts: Counter[str]


class RowsOfPart(NamedTuple):
    """Some rows of a part: what travels along, and what the preprocessor had to count."""

    part: int
    kept: pa.RecordBatch
    counts: Counter[str]


class _Chunk(NamedTuple):
    """Some rows of a part with their features, by name."""

    rows: RowsOfPart
    features: dict[str, Floats]


@dataclass(frozen=True)
class RowEncoder:
    """A model, the map to its inputs, and what is wanted of each row."""

    model: VAE
    preprocessor: Preprocessor
    contract: Contract
    wanted: EncodingSection
    version: int
    device: str = "cpu"

    def parts(
        self, snapshot: Snapshot, numbers: Iterable[int], *, workers: int
    ) -> Iterator[EncodedPart]:
        """Yield the features of the parts of these numbers, in order, by `workers` threads.

        Raises:
            FormatError: a part of the snapshot is damaged.
            FloatingPointError: the encoder gave a value that is not finite.
        """
        chosen = list(numbers)
        total, done = sum(snapshot.parts[number].rows for number in chosen), 0
        with one_thread():
            chunks = self._chunks(snapshot, chosen, workers)
            for number, group in groupby(chunks, key=lambda chunk: chunk.rows.part):
                part = []
                for chunk in group:
                    part.append(chunk)
                    done += len(chunk.rows.kept)
                    advance("encode", done, total, "rows")
                yield self._joined(number, part)

    def read(
        self, snapshot: Snapshot, numbers: Iterable[int], *, workers: int
    ) -> Iterator[tuple[RowsOfPart, tuple[Tensor, Tensor]]]:
        """Yield the rows of these parts as the model sees them, x and keys, a chunk at a time."""
        yield from in_order(self._read, self._batches(snapshot, numbers), workers=workers)

    def _batches(
        self, snapshot: Snapshot, numbers: Iterable[int]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        batches = (
            (number, batch)
            for number in numbers
            for batch in part_rows(snapshot.parts[number], self.chunk_rows)
        )
        return read_ahead(batches, depth=2)

    @property
    def chunk_rows(self) -> int:
        """Whole batches, about as many as `CHUNK_ENTRIES` holds."""
        batch = self.wanted.batch_rows * self.preprocessor.features
        return max(1, CHUNK_ENTRIES // batch) * self.wanted.batch_rows

    def _chunks(
        self, snapshot: Snapshot, numbers: Iterable[int], workers: int
    ) -> Iterator[_Chunk]:
        if self.device == "cpu":
            yield from in_order(self._chunk, self._batches(snapshot, numbers), workers=workers)
            return
        read = self.read(snapshot, numbers, workers=workers)
        for rows, found in through(self.device, self._features, read):
            yield self._checked(rows, found)

    def _chunk(self, item: tuple[int, pa.RecordBatch]) -> _Chunk:
        rows, tensors = self._read(item)
        return self._checked(rows, self._features(*tensors))

    def _read(
        self, item: tuple[int, pa.RecordBatch]
    ) -> tuple[RowsOfPart, tuple[Tensor, Tensor]]:
        """Map cells to x, and keys to the identity of each row."""
        number, rows = item
        encoded = self.preprocessor.transform(rows)
        wanted = self._kept
        kept = rows.select([name for name in rows.schema.names if name in wanted])
        drawn = len(self._names) > 2
        keys = handoff.row_keys(rows[self.contract.key or ROW_ID]) if drawn else NO_KEYS
        return RowsOfPart(number, kept, encoded.counts), (torch.from_numpy(encoded.x), keys)

    @property
    def _names(self) -> list[str]:
        """The features that are computed, in order."""
        return ["mean", "stddev", *(n for n in ("samples", "elbo") if n in self.wanted.columns)]

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.model, batch_rows=self.wanted.batch_rows)

    @torch.inference_mode()
    def _features(self, x: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        """The features of some rows, where the rows are; samples × rows × latents of them."""
        found = list(self._encoder(x))
        if "samples" in self._names:
            found.append(self._draws(x, keys))
        if "elbo" in self._names:
            found.append(self._bound(x, keys))
        return tuple(found)

    def _checked(self, rows: RowsOfPart, found: tuple[Tensor, ...]) -> _Chunk:
        if not all(map(_finite, found[:2])):
            raise FloatingPointError(
                f"part {rows.part} of the snapshot: the encoder gave values that are not finite; "
                f"nothing is published. Look for cells far from those it was trained on"
            )
        if self.wanted.layout == "wide":
            found = tuple(map(_by_columns, found))
        features = [tensor.numpy() for tensor in found]
        return _Chunk(rows, dict(zip(self._names, features, strict=True)))

    @property
    def _kept(self) -> set[str | None]:
        contract = self.contract
        return {
            contract.key or ROW_ID,
            "split",
            contract.label,
            contract.timestamp,
            *contract.carried,
        }

    def _draws(self, x: Tensor, keys: Tensor) -> Tensor:
        """Draws from q(z|x), samples × rows × latents: a function of the row's key alone."""
        parts = []
        for rows, row_keys in Rows(x, keys).batches():
            noise = keyed_noise(
                NOISE_SEED, row_keys, 0, self.wanted.samples, self.model.latents
            )
            parts.append(self._encoder.posterior(rows).reparameterize(noise))
        return torch.cat(parts, 1)

    def _bound(self, x: Tensor, keys: Tensor) -> Tensor:
        """The ELBO of each row, in nats."""
        parts = []
        for rows, row_keys in Rows(x, keys).batches():
            seen = binarized_for_evaluation(self.model.config, rows, row_keys, NOISE_SEED)
            noise = keyed_noise(NOISE_SEED, row_keys, 0, ELBO_SAMPLES, self.model.latents)
            parts.append(elbo(self.model, seen, noise))
        return torch.cat(parts)

    def _joined(self, number: int, chunks: list[_Chunk]) -> EncodedPart:
        def together(name: str) -> Floats | None:
            parts = [chunk.features[name] for chunk in chunks if name in chunk.features]
            return np.concatenate(parts, 1 if name == "samples" else 0) if parts else None

        mean, stddev, samples, elbo_nats = map(together, ("mean", "stddev", "samples", "elbo"))
        assert mean is not None
        assert stddev is not None
        table = features_table(
            pa.Table.from_batches([chunk.rows.kept for chunk in chunks]),
            self.contract,
            mean,
            stddev,
            layout=self.wanted.layout,
            model_version=self.version,
            samples=samples,
            elbo_nats=elbo_nats,
        )
        counts: Counter[str] = Counter()
        for chunk in chunks:
            counts.update(chunk.rows.counts)
        return EncodedPart(number, table, counts)


def _by_columns(values: Tensor) -> Tensor:
    """The same numbers, each latent's one behind the other: as its column will have them."""
    return values.mT.contiguous().mT if values.ndim > 1 else values


def _finite(values: Tensor) -> bool:
    """Whether each of them is; in one pass."""
    if not values.numel():
        return True
    least, largest = values.aminmax()
    return math.isfinite(least) and math.isfinite(largest)


def cores() -> int:
    """How many cores this process may use, within bounds."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """Yield `work(item)` of each item in order, with one item more than workers under way.

    What `work` raises is raised here, in its place.
    """
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        under_way: deque[Future[Result]] = deque()
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
