"""The gap between the bounds on log p(x) of simulated digits, against the time that it takes.

    python -m tests.benchmarks.bounds [--model RUN/model] [--rows 100] [--chains 16]

Without a model, one of the demo's shape is trained first on the bundled digits, for 10 epochs.
Each line doubles the temperatures of the annealing, forwards and backwards, as long as all of
them fit into 300 s. Prints a table, and the same as JSON on the last line.
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow.parquet as pq
import torch

from vae_engine.annealing import AnnealingPlan, sandwich
from vae_engine.artifact import load_model
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.evaluation import Total
from vae_engine.model import VAE
from vae_engine.noise import step_generator
from vae_engine.statistics import Statistics
from vae_engine.training import fit, minibatches, new_state

DIGITS = Path(__file__).parents[2] / "data" / "samples" / "mnist_10k.parquet"
BUDGET_S = 300.0
MOST_TEMPERATURES = 3200


def trained() -> VAE:
    """A model like the demo's: 784-400-200-12, Bernoulli pixels, dynamic binarization."""
    images = pq.read_table(DIGITS, columns=["image"])["image"].combine_chunks()
    x = torch.tensor(np.array([np.frombuffer(image, np.uint8) for image in images.to_pylist()]))
    column = Column(
        name="image",
        likelihood="bernoulli",
        width=x.shape[1],
        scale=255.0,
        image=(28, 28, 1),
        binarization="dynamic",
    )
    config = ModelConfig(columns=(column,), latents=12, hidden=(400, 200), activation="relu")
    plan = TrainingPlan(seed=0, epochs=10, batch_rows=100)
    state = new_state(config, plan, Statistics.of(config, x))
    for _ in fit(state, minibatches(x, plan)):
        pass
    return state.model


def main() -> None:
    """Print gap and time for more and more temperatures, as long as the budget lasts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--chains", type=int, default=16)
    options = parser.parse_args()
    model = trained() if options.model is None else load_model(options.model)
    x, z = model.dream(options.rows, step_generator(0, 0))
    found = []
    temperatures, spent_s, total_s = 25, 0.0, 0.0
    print("temperatures   seconds   gap, nats          lower        upper   acceptance")
    while temperatures <= MOST_TEMPERATURES and total_s + 2 * spent_s < BUDGET_S:
        plan = AnnealingPlan(seed=0, temperatures=temperatures, chains=options.chains)
        started = perf_counter()
        bounds = sandwich(model, x, z, torch.arange(options.rows), plan)
        spent_s = perf_counter() - started
        total_s += spent_s
        gap, lower, upper = (
            Total.of(nats) for nats in (bounds.width_nats, bounds.lower_nats, bounds.upper_nats)
        )
        line = {
            "temperatures": temperatures,
            "seconds": round(spent_s, 2),
            "gap_nats": gap.mean,
            "gap_nats_stderr": gap.stderr,
            "lower_nats": lower.mean,
            "upper_nats": upper.mean,
            "acceptance": bounds.acceptance.mean().item(),
        }
        found.append(line)
        print(
            f"{temperatures:12} {spent_s:9.1f}   {gap.mean:6.3f} ± {gap.stderr:5.3f} "
            f"{lower.mean:12.2f} {upper.mean:12.2f} {line['acceptance']:12.2f}",
            flush=True,
        )
        temperatures *= 2
    print(json.dumps({"threads": torch.get_num_threads(), "rows": options.rows, "gap": found}))


if __name__ == "__main__":
    main()
