"""The rows that a model is trained on: in memory where they fit, packed on disk where not.

Packed rows were shuffled once and are read in blocks, in bounded memory (`data.packing`,
`data.batches`). Either way the order of minibatches is a function of the seed and the step, so a
run that was killed goes on in the midst of an epoch. The two orders differ: which of them a run
has is decided when it begins, and kept with it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.batches import Loader
from data.packing import Packed, pack
from data.preprocessing import Preprocessor
from data.snapshot import Snapshot
from flows import handoff
from flows.device_feed import sent_ahead
from flows.handoff import Rows
from flows.spec import TrainingSection
from vae_engine.config import TrainingPlan
from vae_engine.training import Batch, minibatches

SHARE = 0.5  # of the memory that is available, for the rows as float32
SAMPLE_BYTES = 64 << 20  # of packed rows, what the decoder's start is measured on


@dataclass(frozen=True)
class TrainingRows:
    """The train split, encoded: a number of rows, and their minibatches."""

    source: Rows | Packed

    def __len__(self) -> int:
        return self.source.rows if isinstance(self.source, Packed) else len(self.source.x)

    @property
    def packed(self) -> bool:
        """Whether they are on disk."""
        return isinstance(self.source, Packed)

    def sample(self) -> Tensor:
        """Rows to measure moments on: all where they are in memory, else the first of a shuffle."""
        if not isinstance(self.source, Packed):
            return self.source.x
        most = max(1, SAMPLE_BYTES // self.source.row_bytes)
        runs = np.array([[0, min(self.source.rows, handoff.STATISTICS_ROWS, most)]])
        return torch.from_numpy(self.source.read(runs)[0])

    def resident(self, device: str) -> "TrainingRows":
        """The rows on a GPU, bytes as bytes, where they take half of its free memory at most."""
        if isinstance(self.source, Packed) or not device.startswith("cuda"):
            return self
        free, _ = torch.cuda.mem_get_info(device)
        if self.source.x.nbytes > SHARE * free:
            return self
        return TrainingRows(self.source.on(device))

    def minibatches(self, plan: TrainingPlan, start_step: int) -> Iterator[Batch]:
        """Yield the batches of a whole run, from step `start_step` to its end.

        Where they are to go to a GPU, one is under way while the caller steps on another.
        """
        batches = self._minibatches(plan, start_step)
        if self._place == torch.device(plan.device).type:
            yield from batches
            return
        for _, fields in sent_ahead(plan.device, ((None, _fields(batch)) for batch in batches)):
            yield Batch(*fields)

    @property
    def _place(self) -> str:
        return "cpu" if isinstance(self.source, Packed) else self.source.x.device.type

    def _minibatches(self, plan: TrainingPlan, start_step: int) -> Iterator[Batch]:
        if not isinstance(self.source, Packed):
            yield from minibatches(self.source.x, plan, self.source.row_keys, start_step)
            return
        loader = Loader(source=self.source, batch_rows=plan.batch_rows, seed=plan.seed)
        left = plan.total_steps(len(self)) - start_step
        for x, row_keys in islice(loader.batches(start_step), max(0, left)):
            yield Batch(torch.from_numpy(x), torch.from_numpy(row_keys.view(np.int64)))


def _fields(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.row_keys is not None
    return batch.x, batch.row_keys


def training_rows(
    snapshot: Snapshot, preprocessor: Preprocessor, wanted: TrainingSection, root: Path
) -> TrainingRows:
    """Load the train split, or find it packed under `root`, or pack it there."""
    if fits(snapshot, preprocessor, wanted):
        rows = handoff.load_rows(snapshot, preprocessor, "train", limit=wanted.rows)
        return TrainingRows(rows)
    return TrainingRows(pack(snapshot, preprocessor, root=root, seed=wanted.seed))


def fits(snapshot: Snapshot, preprocessor: Preprocessor, wanted: TrainingSection) -> bool:
    """Whether the rows take no more memory than they may; a number of rows that is set does."""
    if wanted.rows is not None:
        return True
    may = wanted.memory_bytes
    if may is None:
        may = int(SHARE * available_bytes())
    return 4 * snapshot.split_rows["train"] * preprocessor.features <= may


def available_bytes(root: Path = Path("/")) -> int:
    """The memory that a new allocation may take: of the machine, and of our control group."""
    meminfo = _numbers((root / "proc/meminfo").read_text("utf-8"))
    free = meminfo["MemAvailable"] * 1024
    group = root / "sys/fs/cgroup"
    limit = group / "memory.max"
    if limit.exists() and (text := limit.read_text("utf-8").strip()) != "max":
        free = min(free, int(text) - int((group / "memory.current").read_text("utf-8")))
    return max(0, free)


def _numbers(meminfo: str) -> Mapping[str, int]:
    pairs = (line.split(":") for line in meminfo.splitlines())
    return {name: int(value.split()[0]) for name, value in pairs}
