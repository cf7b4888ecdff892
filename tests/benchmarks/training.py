"""How fast a small model trains on a CPU: ours beside what one writes with other tools.

    python -m tests.benchmarks.training [--peers PYTHON] [--rounds 5] [--steps 300]

The work and the others are in `tests.benchmarks.training_peers`; PYTHON is an environment that has
pythae, Pyro and NumPyro: `make bench` makes one where they install. Each contestant is a process of
its own with all threads; they take turns, and a median is of all rounds. The limit is the matrix
products of a step and nothing else, on buffers that stay where they are: by two threads with half a
batch each, or by two threads for each product, whichever is faster. Writes
build/bench/training.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import IO

import torch

from tests.benchmarks.training_peers import (
    BATCH_ROWS,
    CONTESTANTS,
    HIDDEN,
    LATENTS,
    PIXELS,
    SCANNED,
    Steps,
    pixels,
    serve,
)
from vae_engine.allocation import keep_freed_memory
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.explicit import ExplicitGradient
from vae_engine.products import affine, back_through, gradient_of_weight
from vae_engine.training import fit, minibatches, new_state
from vae_engine.workers import Workers

OURS, BY_TORCH = "ours", "ours, without Numba"
SPREAD, HALF = "ours, rows spread over workers", "ours, products in bfloat16"
HALVES, WHOLE = "products alone, in halves", "products alone, whole batches"
PEERS = ("pythae", "Pyro", "NumPyro, scan")
RECORD = Path("build/bench/training.json")
TARGETS = {"eager, fused Adam": 1.3, "pythae": 1.7, "Pyro": 1.7, "NumPyro, scan": 1.0}


def ours(
    workers: int | None = None, precision: str = "float32", *, compiled: bool = True
) -> Steps:
    column = Column(name="x", likelihood="bernoulli", width=PIXELS)
    config = ModelConfig(
        columns=(column,), latents=LATENTS, hidden=(HIDDEN,), activation="tanh"
    )
    plan = TrainingPlan(
        seed=0, epochs=1000, batch_rows=BATCH_ROWS, learning_rate=1e-3, precision=precision
    )
    state, x = new_state(config, plan, workers=workers), torch.from_numpy(pixels())
    if not compiled:
        state.explicit = ExplicitGradient(state.model, plan, state.optimizer, workers)
    batches = minibatches(x, plan)

    def steps(count: int) -> None:
        next(fit(state, batches, report_every=state.step + count))

    return steps


def products(*, halves: bool) -> Steps:
    """The products of a step: forward, back to the first layer, and the gradients of the weights."""
    keep_freed_memory()
    count = 2 if halves else 1
    layers = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENTS), (LATENTS, HIDDEN), (HIDDEN, PIXELS)]
    weights = [torch.rand(outputs, inputs) for inputs, outputs in layers]
    gradients = [torch.empty_like(weight) for weight in weights]
    biases = [torch.zeros(outputs) for _, outputs in layers]
    below = [torch.rand(BATCH_ROWS, inputs) for inputs, _ in layers]
    above = [torch.rand(BATCH_ROWS, outputs) for _, outputs in layers]
    workers = Workers(count)

    def rows_of(worker: int) -> None:
        part = slice(BATCH_ROWS * worker // count, BATCH_ROWS * (worker + 1) // count)
        for y, weight, bias, x in zip(below, weights, biases, above, strict=True):
            affine(bias, y[part], weight, x[part])
        for k in (3, 2, 1):
            back_through(above[k][part], weights[k], below[k][part])

    def layers_of(worker: int) -> None:
        for k in range(4)[2 * worker : 2 * worker + 2] if halves else range(4):
            gradient_of_weight(above[k], below[k], gradients[k])

    def steps(steps: int) -> None:
        if halves:
            torch.set_num_threads(1)
        for _ in range(steps):
            workers.run(rows_of)
            workers.run(layers_of)

    return steps


OUR_OWN: dict[str, Callable[[], Steps]] = {
    OURS: ours,
    BY_TORCH: lambda: ours(compiled=False),
    SPREAD: lambda: ours(workers=torch.get_num_threads()),
    HALF: lambda: ours(precision="bfloat16"),
    HALVES: lambda: products(halves=True),
    WHOLE: lambda: products(halves=False),
}


class Contestant:
    """A process that waits for its turn."""

    def __init__(self, name: str, peers: Path | None) -> None:
        self.name = name
        if name in OUR_OWN:
            command = [sys.executable, "-m", "tests.benchmarks.training", "--serve", name]
        else:
            script = str(Path(__file__).with_name("training_peers.py"))
            command = [str(peers) if name in PEERS else sys.executable, script, name]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.first_s = self._answer()

    def seconds(self, steps: int) -> float:
        _stream(self.process.stdin).write(f"{steps}\n")
        _stream(self.process.stdin).flush()
        elapsed_s = self._answer()
        if elapsed_s is None:
            raise RuntimeError(f"{self.name} ended")
        return elapsed_s

    def dismiss(self) -> None:
        _stream(self.process.stdin).close()
        self.process.wait()

    def _answer(self) -> float | None:
        line = _stream(self.process.stdout).readline()
        return float(line) if line else None


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def main(options: argparse.Namespace) -> None:
    names = [*OUR_OWN, *(n for n in CONTESTANTS if options.peers or n not in PEERS)]
    for name in CONTESTANTS:
        if name not in names:
            print(f"{name}: left out, for its environment is not there")
    contestants = []
    for name in names:
        contestant = Contestant(name, options.peers)
        if contestant.first_s is None:
            print(f"{name}: left out, for it does not run here")
        else:
            contestants.append(contestant)
    times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(options.rounds):
        for contestant in contestants:
            times[contestant.name].append(contestant.seconds(options.steps) / options.steps)
    for contestant in contestants:
        contestant.dismiss()
    rates = {name: BATCH_ROWS / median(found) for name, found in times.items()}
    first_s = {contestant.name: contestant.first_s for contestant in contestants}
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
        target = f"   (aim {TARGETS[name]:g})" if name in TARGETS else ""
        print(
            f"{name:<30} {rate:8,.0f} samples/s   ours is {rates[OURS] / rate:5.2f} × that{target}"
            f"   first {SCANNED} steps {first_s[name]:5.1f} s"
        )
    limit = max(rates[HALVES], rates[WHOLE])
    print(f"ours reaches {rates[OURS] / limit:.0%} of its matrix products alone")
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "samples_per_s": rates,
        "ours_over": {name: rates[OURS] / rate for name, rate in rates.items()},
        "seconds_per_step": times,
        "first_steps_s": first_s,
    }
    RECORD.write_text(json.dumps(record, indent=2), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--serve", choices=OUR_OWN)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(OUR_OWN[chosen.serve])
    else:
        main(chosen)
