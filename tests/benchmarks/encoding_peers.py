"""The same encoding as one writes it with other tools; run by an environment that has them.

    python tests/benchmarks/encoding_peers.py NAME SOURCE WEIGHTS FOLDER

NAME is one of pandas, polars, dask, ray. SOURCE has `id` and `image`, 784 bytes a row; WEIGHTS are
those of a 784-500-40 encoder (.npz). FOLDER gets the id, 20 means and 20 standard deviations of
each row as zstd Parquet. Prints seconds, in which imports and the start of a cluster are not.
Knows nothing of our code.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

PIXELS, LATENTS, BATCH_ROWS, CHUNK_ROWS = 784, 20, 2048, 65_536
NAMES = [f"z_{what}_{k:03d}" for what in ("mean", "stddev") for k in range(LATENTS)]


class Encoder:
    """Loads its weights where it is used first: it travels to other processes by their path."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    @torch.inference_mode()
    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        w = {name: torch.from_numpy(array) for name, array in np.load(self.weights).items()}
        found = []
        for batch in torch.from_numpy(images).split(BATCH_ROWS):
            hidden = torch.tanh(torch.addmm(w["b1"], batch.float().div_(255), w["w1"].T))
            out = torch.addmm(w["b2"], hidden, w["w2"].T)
            out[:, LATENTS:] = out[:, LATENTS:].exp()
            found.append(out)
        return torch.cat(found).numpy()


def pixels(images: Any) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(images), np.uint8).reshape(-1, PIXELS).copy()


def with_pandas(source: str, encoder: Encoder, folder: Path) -> Callable[[], object]:
    import pandas as pd

    def run() -> None:
        frame = pd.read_parquet(source)
        features = pd.DataFrame(encoder(pixels(frame["image"])), columns=NAMES)
        features.insert(0, "id", frame["id"])
        features.to_parquet(folder / "features.parquet", compression="zstd")

    return run


def with_polars(source: str, encoder: Encoder, folder: Path) -> Callable[[], object]:
    import polars as pl

    def run() -> None:
        frame = pl.read_parquet(source)
        for k, piece in enumerate(frame.iter_slices(CHUNK_ROWS)):
            z = pl.from_numpy(encoder(pixels(piece["image"])), schema=NAMES)
            z.insert_column(0, piece["id"]).write_parquet(folder / f"{k:05d}.parquet")

    return run


def encoded(frame: Any, encoder: Encoder) -> Any:
    """A pandas frame in, a pandas frame out: what Dask and Ray Data map over."""
    import pandas as pd

    features = pd.DataFrame(encoder(pixels(frame["image"])), columns=NAMES, index=frame.index)
    features.insert(0, "id", frame["id"])
    return features


def with_dask(source: str, encoder: Encoder, folder: Path) -> Callable[[], object]:
    import dask.dataframe as dd
    import pandas as pd
    from dask.distributed import Client

    Client(n_workers=2, threads_per_worker=1, dashboard_address=None)
    meta = pd.DataFrame(
        {"id": pd.Series(dtype="int64")} | dict.fromkeys(NAMES, pd.Series(dtype="float32"))
    )

    def run() -> None:
        frame = dd.read_parquet(source, split_row_groups=True)
        features = frame.map_partitions(encoded, encoder, meta=meta)
        features.to_parquet(folder, compression="zstd", write_index=False)

    return run


def with_ray(source: str, encoder: Encoder, folder: Path) -> Callable[[], object]:
    import ray

    ray.init(address="local", log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def run() -> None:
        rows: Any = ray.data.read_parquet(source)
        features = rows.map_batches(
            encoded, fn_args=[encoder], batch_size=CHUNK_ROWS, batch_format="pandas"
        )
        features.write_parquet(str(folder), compression="zstd")

    return run


PEERS = {"pandas": with_pandas, "polars": with_polars, "dask": with_dask, "ray": with_ray}


def main(name: str, source: str, weights: str, folder: str) -> None:
    run = PEERS[name](source, Encoder(weights), Path(folder))
    started = time.perf_counter()
    run()
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
