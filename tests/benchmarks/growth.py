"""What a row costs as a table, a model or an estimate grows: ingest, train, encode, log p(x).

    python -m tests.benchmarks.growth [MOST_ROWS]        10,000,000 without it
    python -m tests.benchmarks.growth plan               what 1e9 rows × 100 columns would take

Four lines: along each, one size grows and the rest stay (100,000 rows, 10 columns, 8 latents, 100
samples; 1,000 rows where columns grow). Continuous columns in a Parquet file, the network that the columns
ask for, batches of 512. Writes build/bench/growth.json, and growth.svg beside it: seconds against
size on logarithmic axes, where what is linear has slope 1, and the slope over the last decade.
"""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure

from data.preprocessing import fit_preprocessor
from data.snapshot import Snapshot, ingest
from flows import handoff
from flows.encode import publish
from flows.settings import Home
from flows.spec import load_spec
from flows.threads import pinned_threads
from vae_engine.artifact import save_model
from vae_engine.marginal import estimate_log_marginal
from vae_engine.training import StepReport, fit, minibatches, new_state

ROWS, COLUMNS, LATENTS, SAMPLES = 100_000, 10, 8, 100
CELLS = 2_000_000  # of the table that are made at a time
Result = TypeVar("Result")
STEPS, WARM = 10, 3
MARGINAL_ROWS = 32
OUT = Path("build/bench")


@dataclass(frozen=True)
class Size:
    rows: int = ROWS
    columns: int = COLUMNS
    latents: int = LATENTS
    samples: int = SAMPLES


def lines(most_rows: int) -> dict[str, list[Size]]:
    """The sizes along each line, from small to large."""
    decades = [10**k for k in range(5, 1 + round(math.log10(most_rows)))]
    return {
        "rows": [Size(rows=rows) for rows in decades],
        "columns": [Size(rows=1000, columns=columns) for columns in (10, 100, 1000, 10_000)],
        "latents": [Size(latents=latents) for latents in (2, 8, 32, 128, 512)],
        "samples": [Size(samples=samples) for samples in (100, 1000, 10_000)],
    }


def generated(path: Path, size: Size) -> Path:
    """A table with as many factors behind it as it has columns, up to four."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(4, size.columns)).astype(np.float32)
    piece = max(1, CELLS // size.columns)
    names = [f"x{k}" for k in range(size.columns)]
    schema = pa.schema([("id", pa.int64()), *((name, pa.float32()) for name in names)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, size.rows, piece):
            rows = min(piece, size.rows - start)
            x = random.normal(size=(rows, 4)).astype(np.float32) @ weights
            x += random.normal(size=x.shape).astype(np.float32)
            cells = {name: x[:, k] for k, name in enumerate(names)}
            writer.write_table(
                pa.table({"id": np.arange(start, start + rows), **cells}, schema)
            )
    return path


def costs(folder: Path, snapshot: Snapshot, size: Size) -> dict[str, float]:
    """Seconds for all rows of the table; of log p(x), for `MARGINAL_ROWS` of them."""
    settings = [f"model.latents={size.latents}", "training.batch_rows=512"]
    spec = load_spec(str(folder / "t.parquet"), settings)
    preprocessor, fit_s = timed(lambda: fit_preprocessor(snapshot))
    rows = handoff.load_rows(snapshot, preprocessor, "train", limit=20_000)
    config = handoff.model_config(spec, preprocessor, snapshot)
    plan = handoff.training_plan(spec, config, rows=len(rows.x))
    state = new_state(config, plan, handoff.statistics(config, rows.x), rows=len(rows.x))
    batches = minibatches(rows.x, plan)
    warm, chosen = list(islice(batches, WARM)), list(islice(batches, STEPS))
    with pinned_threads(plan, state.model):
        drain(fit(state, warm))
        _, steps_s = timed(lambda: drain(fit(state, chosen)))
    seen = sum(len(batch.x) for batch in chosen)

    artifact = folder / f"model-{size.latents}"
    artifact.mkdir(exist_ok=True)
    (artifact / "preprocessor.json").write_text(preprocessor.to_json(), encoding="utf-8")
    digest = save_model(artifact, state.model, rows.x[:4])
    encoder = {
        "name": "t",
        "version": size.latents,
        "champion": True,
        "digest": digest,
        "folder": str(artifact),
    }
    _, encode_s = timed(lambda: publish(spec.encoding, Home(folder), snapshot, encoder))
    few = rows.first(MARGINAL_ROWS)
    _, marginal_s = timed(
        lambda: estimate_log_marginal(state.model, *few, samples=size.samples, seed=0)
    )
    return {
        "fit preprocessor": fit_s,
        "train an epoch": steps_s / seen * snapshot.rows,
        "encode": encode_s,
        f"log p(x) of {MARGINAL_ROWS} rows": marginal_s,
    }


def drain(reports: Iterator[StepReport]) -> None:
    for _ in reports:
        pass


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = perf_counter()
    result = work()
    return result, perf_counter() - started


def measured(size: Size) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, datasets = generated(folder / "t.parquet", size), folder / "datasets"
        snapshot, ingest_s = timed(lambda: ingest(source, name="t", root=datasets, key="id"))
        return {"ingest": ingest_s, **costs(folder, snapshot, size)}


def slope(sizes: list[float], seconds: list[float]) -> float:
    """Of the last two points on logarithmic axes: 1 where cost is proportional to size."""
    return math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])


def draw(points: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = zip(figure.subplots(2, 2).flat, lines(ROWS), strict=True)
    for axes, line in panels:
        along = [point for point in points if point["line"] == line]
        sizes = [point[line] for point in along]
        for what in along[0]["seconds"]:
            spent = [point["seconds"][what] for point in along]
            label = f"{what} ({slope(sizes, spent):+.2f})"
            axes.loglog(sizes, spent, marker="o", label=label)
        axes.set_xlabel(line)
        axes.set_ylabel(f"seconds, {along[0]['rows']:,} rows" if line != "rows" else "seconds")
        axes.legend(fontsize="small", title="slope at the end")
    figure.savefig(path)


def main(most_rows: int) -> None:
    points = []
    for line, sizes in lines(most_rows).items():
        for size in sizes:
            spent = measured(size)
            points.append({"line": line, **asdict(size), "seconds": spent})
            told = "  ".join(f"{what} {seconds:.3g} s" for what, seconds in spent.items())
            print(f"{line} {getattr(size, line):,}: {told}", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    document = {"threads": torch.get_num_threads(), "points": points}
    (OUT / "growth.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    draw(points, OUT / "growth.svg")
    print(f"{OUT / 'growth.json'}  {OUT / 'growth.svg'}")


def plan() -> None:
    """What a row of 100 columns costs beyond the cost of starting, a billion times."""
    sizes = [Size(rows=rows, columns=100) for rows in (50_000, 250_000)]
    small, large = (measured(size) for size in sizes)
    more = sizes[1].rows - sizes[0].rows
    for stage in ("ingest", "train an epoch", "encode"):
        row_s = (large[stage] - small[stage]) / more
        hours = row_s * 1e9 / 3600
        print(f"{stage:<15} {1 / row_s:>10,.0f} rows/s  {hours:6.1f} h for a billion rows")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["plan"]:
            plan()
        case arguments:
            main(*map(int, arguments or ["10000000"]))
