"""How fast rows are encoded and log p(x) is estimated on a GPU, and what bounds it.

    python -m tests.benchmarks.inference_gpu [--rows 1000000] [--device cuda]

Encoding: rows of 784 bytes in Parquet through a 784-500-20 encoder, decoded by the host's cores while the
device computes. The limit is the slower of the two alone: cores that decode and fill the model's input,
or the device with its rows there already. Estimating: log p(x) of 1,000 rows at K = 5,000 beside the
products of the decoder alone. Without a GPU it says so; on a CPU it shows that it runs. Writes
build/bench/inference_gpu.json.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch

from data.preprocessing import fit_preprocessor
from data.snapshot import Snapshot
from flows.row_encoder import RowEncoder, cores
from flows.spec import load_spec
from tests.benchmarks.encoding import BATCH_ROWS, HIDDEN, LATENTS, PIXELS, model, prepared
from tests.benchmarks.training_gpu import captured, wait
from vae_engine.encoding import encode
from vae_engine.marginal import estimate_log_marginal

RESIDENT_ROWS = 65_536
MARGINAL_ROWS, SAMPLES = 1000, 5000
DRAWS = 50_000  # of z, whose products are taken at once
RECORD = Path("build/bench/inference_gpu.json")


def seconds(work: Callable[[], object], device: str) -> float:
    """The time of a second run: in the first, libraries get ready."""
    work()
    wait(device)
    started = perf_counter()
    work()
    wait(device)
    return perf_counter() - started


def encoder_of(snapshot: Snapshot, device: str) -> RowEncoder:
    wanted = load_spec("mnist", [f"encoding.batch_rows={BATCH_ROWS}"]).encoding
    preprocessor = fit_preprocessor(snapshot)
    return RowEncoder(
        model().to(device), preprocessor, snapshot.contract, wanted, 1, _named(device)
    )


def _named(device: str) -> str:
    """On a CPU, another name of it, by which rows take the way to a device and back."""
    return "cpu:0" if device == "cpu" else device


def encoding_rates(snapshot: Snapshot, device: str) -> dict[str, float]:
    """Rows a second of the whole, and of each side alone."""
    rows = sum(part.rows for part in snapshot.parts)
    encoder = encoder_of(snapshot, device)
    numbers = range(len(snapshot.parts))

    def whole() -> None:
        for _ in encoder.parts(snapshot, numbers, workers=cores()):
            pass

    def decoded() -> None:
        for _ in encoder.read(snapshot, numbers, workers=cores()):
            pass

    x = torch.randint(0, 256, (RESIDENT_ROWS, PIXELS), dtype=torch.uint8, device=device)
    return {
        "whole": rows / seconds(whole, device),
        "host alone": rows / seconds(decoded, device),
        "device alone": RESIDENT_ROWS
        / seconds(lambda: encode(encoder.model, x, batch_rows=BATCH_ROWS), device),
    }


def marginal_rates(device: str, rows: int) -> dict[str, float]:
    """Draws a second of the estimate, and of the decoder's products alone."""
    x = torch.randint(0, 256, (rows, PIXELS), dtype=torch.uint8, device=device)
    keys = torch.arange(rows, device=device)
    there = model().to(device)
    draws = min(DRAWS, 50 * rows)
    z = torch.rand(draws, LATENTS, device=device)
    first, second = (
        torch.rand(shape, device=device) for shape in ((LATENTS, HIDDEN), (HIDDEN, PIXELS))
    )
    hidden, outputs = z.new_empty(draws, HIDDEN), z.new_empty(draws, PIXELS)

    def once() -> None:
        torch.mm(z, first, out=hidden)
        torch.mm(hidden, second, out=outputs)

    products = captured(once, device)
    return {
        "estimate": rows
        * SAMPLES
        / seconds(
            lambda: estimate_log_marginal(there, x, keys, samples=SAMPLES, seed=0), device
        ),
        "products alone": 10 * draws / seconds(lambda: products(10), device),
    }


def main(device: str, rows: int, marginal_rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        encoded = encoding_rates(prepared(Path(name), rows), device)
    limit = min(encoded["host alone"], encoded["device alone"])
    for what, value in encoded.items():
        print(f"encoding, {what:<14} {value:14,.0f} rows/s")
    print(f"the whole reaches {encoded['whole'] / limit:.0%} of the slower side alone")
    drawn = marginal_rates(device, marginal_rows)
    for what, value in drawn.items():
        print(f"log p(x), {what:<14} {value:14,.0f} draws/s")
    print(
        f"{1e3 * SAMPLES / drawn['estimate']:.2f} ms a row at K = {SAMPLES:,}, "
        f"{drawn['estimate'] / drawn['products alone']:.0%} of the products alone"
    )
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    record = {"device": device, "encoding_rows_per_s": encoded, "draws_per_s": drawn}
    RECORD.write_text(json.dumps(record, indent=2), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--marginal-rows", type=int, default=MARGINAL_ROWS)
    chosen = parser.parse_args()
    if chosen.device != "cpu" and not torch.cuda.is_available():
        print("encoding and log p(x) on a GPU: not measured, for there is no CUDA device here")
    else:
        main(chosen.device, chosen.rows, chosen.marginal_rows)
