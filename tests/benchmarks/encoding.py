"""How fast rows become published features, and how near that is to what the cores allow.

    python -m tests.benchmarks.encoding [ROWS [PYTHON]]        1,000,000 without it

Rows of 784 bytes (fixed_size_binary) through a 784-500-20 encoder. Ingested once, outside the
timing. Then reading, the encoder's matrix products and writing, each alone on one thread, in
core-seconds; the limit is all cores divided by their sum; and the whole, as `latents encode`
does it, in a process of its own. They take turns, and medians are of all rounds: a shared
processor's clock changes by a fifth from one minute to the next. Where other processes want the
cores too, the time of the whole is longer than its share says: so the ratio is given by the clock
and by core-seconds.

There are two limits: with the products in float32, as anybody would take them, and with those of
bytes, as we do where the CPU can (`vae_engine.byte_products`).

PYTHON is the interpreter of an environment with pandas, Polars, Dask and Ray: the same rows by a
script in each (`tests.benchmarks.encoding_peers`), beside ours. `make bench` makes one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.features import features_table, open_features
from data.part_rows import part_rows
from data.preprocessing import fit_preprocessor
from data.publication import Staging
from data.snapshot import Snapshot, ingest, open_snapshot
from flows.encode import publish
from flows.row_encoder import cores
from flows.settings import Home
from flows.spec import load_spec
from tests.benchmarks.encoding_peers import PEERS
from vae_engine.artifact import save_model
from vae_engine.byte_products import ByteMap, multiplies_bytes
from vae_engine.config import Column, ModelConfig
from vae_engine.model import VAE, build_model
from vae_engine.networks import MLP

PIXELS, HIDDEN, LATENTS = 784, 500, 20
NAME, BATCH_ROWS = "images", 1024
SOME_ROWS = 131_072  # how many a stage is measured on
ROUNDS, SEVERAL_TIMES = 5, 1_000_000  # and of how many rows at most
BYTES = "products of bytes"


def say(text: str) -> None:
    print(text, flush=True)


def generated(path: Path, rows: int) -> Path:
    """Pictures that compress about as well as digits do: mostly black, the rest at random."""
    random = np.random.default_rng(0)
    kind = pa.binary(PIXELS)
    schema = pa.schema([("id", pa.int64()), ("image", kind)])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, rows, SOME_ROWS):
            count = min(SOME_ROWS, rows - start)
            x = random.integers(0, 256, (count, PIXELS), dtype=np.uint8)
            x *= random.random((count, PIXELS), dtype=np.float32) < 0.2
            images = pa.Array.from_buffers(kind, count, [None, pa.py_buffer(x)])
            ids = pa.array(np.arange(start, start + count))
            writer.write_table(pa.table([ids, images], schema=schema))
    return path


def prepared(folder: Path, rows: int) -> Snapshot:
    source = generated(folder / "images.parquet", rows)
    pixels = {"kind": "pixels", "height": 28, "width": 28, "channels": 1, "max": 255}
    started = perf_counter()
    snapshot = ingest(
        source, name=NAME, root=folder / "datasets", key="id", overrides={"image": pixels}
    )
    say(f"ingest (once): {perf_counter() - started:.1f} s, {len(snapshot.parts)} parts")
    artifact = folder / "model"
    artifact.mkdir()
    preprocessor = fit_preprocessor(snapshot)
    (artifact / "preprocessor.json").write_text(preprocessor.to_json(), encoding="utf-8")
    golden = torch.zeros(1, PIXELS, dtype=torch.uint8)
    (folder / "digest").write_text(save_model(artifact, model(), golden), encoding="utf-8")
    return snapshot


def model() -> VAE:
    column = Column(
        name="image",
        likelihood="bernoulli",
        width=PIXELS,
        scale=255.0,
        image=(28, 28, 1),
        binarization="dynamic",
    )
    config = ModelConfig(
        columns=(column,), latents=LATENTS, hidden=(HIDDEN,), activation="tanh"
    )
    return build_model(config, seed=0).eval()


def stages(snapshot: Snapshot, folder: Path) -> dict[str, float]:
    """Core-microseconds a row costs in each stage, on one thread."""
    pa.set_cpu_count(1)
    rows = snapshot.parts[0].rows
    return {
        "reading": _cost(lambda: _drained(part_rows(snapshot.parts[0], 8192)), rows),
        "products": _products(of_bytes=False),
        "writing": _writing(snapshot, folder),
    }


def _drained(batches: Iterator[pa.RecordBatch]) -> None:
    for _ in batches:
        pass


@torch.inference_mode()
def _products(*, of_bytes: bool) -> float:
    encoder = model()
    x = torch.randint(0, 256, (BATCH_ROWS, PIXELS), dtype=torch.uint8)
    assert isinstance(encoder.encoder, MLP)
    linear = encoder.encoder.first
    assert linear is not None
    first: Callable[[torch.Tensor], torch.Tensor] | None = linear
    if of_bytes:
        first = ByteMap.of(linear.weight, linear.bias, encoder.inputs.unit)
    assert first is not None
    seen = x if of_bytes else x / 255
    hidden = first(seen)

    def products() -> None:
        for _ in range(20):
            first(seen)
            encoder.head(hidden)

    return _cost(products, 20 * BATCH_ROWS)


def _writing(snapshot: Snapshot, folder: Path) -> float:
    random = np.random.default_rng(0)
    rows = snapshot.part_table(snapshot.parts[0], columns=["id", "split"])
    mean, stddev = random.normal(size=(2, len(rows), LATENTS)).astype(np.float32)
    staging = Staging(folder / "alone", "writing")

    def write() -> None:
        table = features_table(rows, snapshot.contract, mean, stddev, model_version=1)
        staging.write_part(0, table, {})
        staging.discard()

    return _cost(write, len(rows))


def _cost(work: Callable[[], None], rows: int) -> float:
    work()
    best = min(_core_s(work) for _ in range(5))
    return best / rows * 1e6


def _core_s(work: Callable[[], None]) -> float:
    started = process_time()
    work()
    return process_time() - started


def whole(folder: Path, snapshot_path: str) -> None:
    """Encode, in this process, and print wall seconds, core-seconds and peak memory."""
    home = Home(folder)
    spec = load_spec(str(folder / "images.parquet"), [f"encoding.batch_rows={BATCH_ROWS}"])
    encoder = {
        "name": NAME,
        "version": 1,
        "champion": True,
        "digest": (folder / "digest").read_text("utf-8"),
        "folder": str(folder / "model"),
    }
    started, core_started = perf_counter(), process_time()
    publish(spec.encoding, home, open_snapshot(Path(snapshot_path)), encoder)
    elapsed_s, core_s = perf_counter() - started, process_time() - core_started
    say(f"{elapsed_s} {core_s} {_peak_kb()}")


def _peak_kb() -> int:
    """Peak resident memory since exec; what getrusage says begins with the parent's."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


def peers(folder: Path, python: str, rows: int, ours: float) -> None:
    """The same rows to the same features by other tools; `ours` is our rows per second."""
    weights = model().state_dict()
    named = {"w1": "encoder.layers.0.weight", "b1": "encoder.layers.0.bias"}
    named |= {"w2": "head.weight", "b2": "head.bias"}
    np.savez(folder / "weights.npz", **{k: weights[name].numpy() for k, name in named.items()})
    script = str(Path(__file__).with_name("encoding_peers.py"))
    for name in PEERS:
        out = folder / name
        out.mkdir()
        arguments = [
            name,
            str(folder / "images.parquet"),
            str(folder / "weights.npz"),
            str(out),
        ]
        done = subprocess.run(
            [python, script, *arguments], check=False, capture_output=True, text=True
        )
        if done.returncode:
            say(f"{name:<7} does not run here: {done.stderr.strip().splitlines()[-1]}")
            continue
        written = pq.read_table(out, columns=["id"])
        assert len(written) == rows, f"{name} wrote {len(written)} rows"
        rate = rows / float(done.stdout.split()[-1])
        say(f"{name:<7} {rate:,.0f} rows/s; ours is {ours / rate:.2f} times as fast")


class Round(NamedTuple):
    """What one turn of everything took."""

    costs: dict[str, float]  # core-microseconds of a row, stage by stage
    rate: float  # of the whole, in rows a second
    cost: float  # and its core-microseconds a row
    peak_mb: float

    def limit(self, *, of_bytes: bool) -> float:
        """Rows a second, if all cores did nothing but the stages."""
        other = "products" if of_bytes else BYTES
        return cores() / sum(cost for name, cost in self.costs.items() if name != other) * 1e6


def measured(snapshot: Snapshot, folder: Path, rows: int) -> Round:
    costs = stages(snapshot, folder)
    if multiplies_bytes():
        costs[BYTES] = _products(of_bytes=True)
    shutil.rmtree(folder / "features", ignore_errors=True)  # of the round before
    os.sync()  # what was written, so that nobody writes it to the disk meanwhile
    command = [sys.executable, "-m", "tests.benchmarks.encoding", "whole", str(folder)]
    done = subprocess.run(
        [*command, str(snapshot.path)], check=True, capture_output=True, text=True
    )
    elapsed_s, core_s, peak_kb = map(float, done.stdout.split())
    assert open_features(NAME, home=folder).rows == rows
    return Round(costs, rows / elapsed_s, core_s / rows * 1e6, peak_kb / 1024)


def main(rows: int, python: str | None = None) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snapshot = prepared(folder, rows)
        count = ROUNDS if rows <= SEVERAL_TIMES else 1
        rounds = [measured(snapshot, folder, rows) for _ in range(count)]
        for stage in rounds[0].costs:
            cost = median(one.costs[stage] for one in rounds)
            say(f"{stage} alone: {cost:.2f} core-µs a row")
        rate = median(one.rate for one in rounds)
        say(
            f"whole: {rate:,.0f} rows/s, {median(one.cost for one in rounds):.2f} core-µs a row"
        )
        say(f"       peak {max(one.peak_mb for one in rounds):,.0f} MB")
        for of_bytes in (False, True) if BYTES in rounds[0].costs else (False,):
            limits = [one.limit(of_bytes=of_bytes) for one in rounds]
            by_clock = [one.rate / limit for one, limit in zip(rounds, limits, strict=True)]
            by_cores = [
                cores() * 1e6 / one.cost / limit
                for one, limit in zip(rounds, limits, strict=True)
            ]
            say(
                f"limit, products of {'bytes' if of_bytes else 'float32'}: "
                f"{median(limits):,.0f} rows/s on {cores()} of {os.cpu_count()} cores; reached "
                f"by the clock {median(by_clock):.0%} ({min(by_clock):.0%} to "
                f"{max(by_clock):.0%}), by core-seconds {median(by_cores):.0%}"
            )
        if python is not None:
            peers(folder, python, rows, rate)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["whole", folder_name, path]:
            whole(Path(folder_name), path)
        case [count, *python]:
            main(int(count), *python)
        case _:
            main(1_000_000)
