"""How fast minibatches come, and how much memory that takes.

    python -m tests.benchmarks.loading rates          rows/s in memory and packed
    python -m tests.benchmarks.loading training       rows/s of training, in memory and packed
    python -m tests.benchmarks.loading memory ROWS    pack and serve generated rows; peak memory
    python -m tests.benchmarks.loading sorted         does a class-sorted file train as well?

Each prints one line a result: what, rows, seconds, rows/s, peak resident bytes.
"""

import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.batches import Batch, InMemory, Loader
from data.packing import Packed, pack
from data.preprocessing import fit_preprocessor
from data.snapshot import ingest
from flows.handoff import Rows
from flows.training_rows import TrainingRows
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.evaluation import evaluate
from vae_engine.statistics import Statistics
from vae_engine.training import Batch as TorchBatch
from vae_engine.training import fit, new_state

FEATURES = 64
ROUNDS, STEPS = 7, 1_000  # of training


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def say(what: str, rows: int, elapsed_s: float) -> None:
    rate = f"{rows / elapsed_s / 1e6:.2f} M rows/s"
    print(f"{what}: {rows:,} rows in {elapsed_s:.2f} s, {rate}, peak {peak_mb()} MB")


def written_raw(folder: Path, x: np.ndarray) -> Packed:
    (folder / "data").mkdir(parents=True)
    x.tofile(folder / "data" / "rows.bin")
    np.arange(len(x), dtype=np.uint64).tofile(folder / "data" / "keys.bin")
    return Packed(folder, len(x), x.shape[1], x.dtype)


def rates(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(600_000, FEATURES)).astype(np.float32)
    keys = np.arange(len(x), dtype=np.uint64)
    sources: dict[str, InMemory | Packed] = {
        "in memory": InMemory(x, keys),
        "packed": written_raw(folder / "packed", x),
    }
    for batch_rows in (128, 2048):
        started = perf_counter()
        order = torch.randperm(len(x))
        whole = torch.from_numpy(x)
        for index in order.split(batch_rows):
            whole.index_select(0, index)
        say(f"torch, by hand, batches of {batch_rows}", len(x), perf_counter() - started)
        for name, rows_of in sources.items():
            loader = Loader(source=rows_of, batch_rows=batch_rows, seed=0)
            for epoch in range(2):
                started = perf_counter()
                rows = sum(len(batch.x) for batch in loader.epoch(epoch))
                say(f"{name}, batches of {batch_rows}", rows, perf_counter() - started)


def training(folder: Path) -> None:
    """Steps on a table and on pictures, as `latents train` takes them; the two take turns."""
    random = np.random.default_rng(0)
    numbers = tuple(Column(name=f"x{i:02d}", likelihood="gaussian") for i in range(FEATURES))
    picture = Column(
        name="x", likelihood="bernoulli", width=784, scale=255.0, binarization="dynamic"
    )
    works: dict[str, tuple[ModelConfig, np.ndarray, int]] = {
        "600,000 × 64 numbers, batches of 128": (
            ModelConfig(columns=numbers, latents=8, hidden=(64,)),
            random.normal(size=(600_000, FEATURES)).astype(np.float32),
            128,
        ),
        "60,000 × 784 bytes, batches of 100": (
            ModelConfig(columns=(picture,), latents=20, hidden=(500,)),
            random.integers(0, 256, (60_000, 784), dtype=np.uint8),
            100,
        ),
    }
    for name, (config, x, batch_rows) in works.items():
        sources: dict[str, Rows | Packed] = {
            "in memory": Rows(torch.from_numpy(x), torch.arange(len(x))),
            "packed": written_raw(folder / f"packed-{batch_rows}", x),
        }
        plan = TrainingPlan(seed=0, epochs=1000, batch_rows=batch_rows, learning_rate=1e-4)
        served = {
            source: steps_on(config, plan, TrainingRows(rows))
            for source, rows in sources.items()
        }
        took: dict[str, list[float]] = {source: [] for source in served}
        for _ in range(ROUNDS):
            for source, steps in served.items():
                started = perf_counter()
                steps(STEPS)
                took[source].append(perf_counter() - started)
        for source, times in took.items():
            say(f"training on {name}, {source}", STEPS * batch_rows, median(times))
        ratio = median(a / b for a, b in zip(took["in memory"], took["packed"], strict=True))
        print(f"training on {name}: packed at {ratio:.2f} times the rate in memory")


def steps_on(
    config: ModelConfig, plan: TrainingPlan, rows: TrainingRows
) -> Callable[[int], None]:
    workers = torch.get_num_threads()
    state = new_state(
        config, plan, Statistics.of(config, rows.sample()), rows=len(rows), workers=workers
    )
    batches = rows.minibatches(plan, 0)

    def steps(count: int) -> None:
        next(fit(state, batches, report_every=state.step + count))

    steps(STEPS)
    return steps


def generated(path: Path, rows: int) -> Path:
    schema = pa.schema([("id", pa.int64()), *((f"x{i}", pa.float32()) for i in range(20))])
    random = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, 100_000):
            count = min(100_000, rows - start)
            columns = [np.arange(start, start + count), *random.normal(size=(20, count))]
            table = pa.table([pa.array(column) for column in columns], schema.names)
            writer.write_table(table.cast(schema))
    return path


def memory(folder: Path, rows: int) -> None:
    source = generated(folder / "t.parquet", rows)
    started = perf_counter()
    snapshot = ingest(source, name="t", root=folder)
    say("snapshot, profile included", rows, perf_counter() - started)
    started = perf_counter()
    preprocessor = fit_preprocessor(snapshot)
    say("fit of the preprocessor", snapshot.split_rows["train"], perf_counter() - started)
    started = perf_counter()
    packed = pack(snapshot, preprocessor, root=folder / "packed", seed=0)
    say("pack", packed.rows, perf_counter() - started)
    loader = Loader(source=packed, batch_rows=128, seed=0)
    started = perf_counter()
    served = sum(len(batch.x) for batch in loader.epoch(0))
    say("serve an epoch", served, perf_counter() - started)


def sorted_classes(folder: Path) -> None:
    """60,000 rows of ten classes in order of their class; three epochs; three seeds."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(10, 32)) * 2
    mixing = random.normal(size=(10, 4, 32))
    classes = np.repeat(np.arange(10), 6000)
    noise = random.normal(size=(60_000, 4))
    x = centres[classes] + np.einsum("nk,nkd->nd", noise, mixing[classes])
    x += 0.3 * random.normal(size=x.shape)
    table = pa.table({"id": np.arange(len(x)), **{f"x{i:02d}": x[:, i] for i in range(32)}})
    overrides = {f"x{i:02d}": {"kind": "continuous"} for i in range(32)}
    snapshot = ingest(table, name="sorted", root=folder, overrides=overrides)
    preprocessor = fit_preprocessor(snapshot)
    train = preprocessor.transform(snapshot.table("train")).x
    test = torch.from_numpy(preprocessor.transform(snapshot.table("test")).x)
    keys = np.arange(len(train), dtype=np.uint64)
    for seed in range(3):
        packed = pack(snapshot, preprocessor, root=folder / "packed", seed=seed)
        full = Loader(source=InMemory(train, keys), batch_rows=128, seed=seed)
        blocks = Loader(source=packed, batch_rows=128, seed=seed)
        orders = {
            "a full permutation": full.batches(),
            "packed, blocks and windows": blocks.batches(),
            "in the order of the file": in_order(train, keys),
        }
        for name, batches in orders.items():
            elbo = trained(name, batches, len(train), test, seed)
            print(f"seed {seed}, {name}: test ELBO {elbo:.3f} nats")


def in_order(x: np.ndarray, keys: np.ndarray) -> Iterator[Batch]:
    while True:
        for start in range(0, len(x), 128):
            yield Batch(x[start : start + 128], keys[start : start + 128])


def trained(
    name: str, batches: Iterator[Batch], rows: int, test: torch.Tensor, seed: int
) -> float:
    columns = tuple(Column(name=f"x{i:02d}", likelihood="gaussian") for i in range(32))
    config = ModelConfig(columns=columns, latents=6, hidden=(64,))
    plan = TrainingPlan(seed=seed, epochs=3, batch_rows=128, learning_rate=1e-3)
    state = new_state(config, plan, Statistics.of(config, test))
    steps = plan.total_steps(rows)
    tensors = (
        TorchBatch(torch.from_numpy(b.x), torch.from_numpy(b.row_keys.view(np.int64)))
        for b in islice(batches, steps)
    )
    for _ in fit(state, tensors, report_every=steps):
        pass
    keys = torch.arange(len(test))
    return evaluate(state.model, [(test, keys)], samples=8, seed=0).elbo.mean


def main() -> None:
    if sys.argv[1:] != ["training"]:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        match sys.argv[1:]:
            case ["rates"]:
                rates(Path(folder))
            case ["training"]:
                training(Path(folder))
            case ["memory", rows]:
                memory(Path(folder), int(rows))
            case ["sorted"]:
                sorted_classes(Path(folder))
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main()
