"""How fast tables become snapshots, and how much memory that takes.

    python -m tests.benchmarks.snapshotting table ROWS     5 columns of mixed kinds
    python -m tests.benchmarks.snapshotting csv ROWS       the same, as a CSV file
    python -m tests.benchmarks.snapshotting images ROWS    784 bytes a row
    python -m tests.benchmarks.snapshotting grown ROWS     the table, then a tenth more

Each prints one line a result: what, rows, seconds, rows/s, peak resident bytes.
"""

import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from data.snapshot import ingest


def timed(what: str, source: Any, root: Path, **settings: Any) -> None:
    started = perf_counter()
    snapshot = ingest(source, name="t", root=root, **settings)
    elapsed_s = perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    rate = f"{snapshot.rows / elapsed_s / 1e6:.2f} M rows/s"
    print(f"{what}: {snapshot.rows:,} rows in {elapsed_s:.2f} s, {rate}, peak {peak_mb} MB")


def mixed(start: int, rows: int) -> pa.Table:
    random = np.random.default_rng(start)
    return pa.table(
        {
            "id": np.arange(start, start + rows),
            "age": random.integers(18, 90, rows),
            "income": random.lognormal(10, 1, rows),
            "city": pa.array([f"city {k}" for k in range(200)]).take(
                pa.array(random.integers(0, 200, rows))
            ),
            "score": pa.array(random.normal(size=rows), mask=random.uniform(size=rows) < 0.05),
        }
    )


def images(start: int, rows: int) -> pa.Table:
    random = np.random.default_rng(start)
    pixels = random.integers(0, 255, rows * 784, np.uint8)
    cells = pa.Array.from_buffers(pa.binary(784), rows, [None, pa.py_buffer(pixels)])
    return pa.table({"id": np.arange(start, start + rows), "image": cells})


def written(path: Path, make: Any, rows: int) -> Path:
    with pq.ParquetWriter(path, make(0, 1).schema) as writer:
        for start in range(0, rows, 100_000):
            writer.write_table(make(start, min(100_000, rows - start)))
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        match sys.argv[1:]:
            case ["table", rows]:
                timed("table", written(folder / "t.parquet", mixed, int(rows)), folder)
            case ["csv", rows]:
                pa.csv.write_csv(mixed(0, int(rows)), folder / "t.csv")
                timed("csv", folder / "t.csv", folder)
            case ["images", rows]:
                timed("images", written(folder / "t.parquet", images, int(rows)), folder)
            case ["grown", rows]:
                timed("first", written(folder / "t.parquet", mixed, int(rows)), folder)
                more = int(rows) * 11 // 10
                timed("grown", written(folder / "t.parquet", mixed, more), folder)
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main()
