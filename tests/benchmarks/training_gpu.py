"""How fast a small model trains on a GPU, beside a plain loop, and how near to what bounds it.

    python -m tests.benchmarks.training_gpu [--seconds 2]
    python -m tests.benchmarks.training_gpu --device cpu --seconds 0.1

The work is that of `tests.benchmarks.training`, in batches of 100, 1,024 and 8,192 rows that are on the
device: our captured step, with and without torch.compile, beside an eager loop with fused Adam, alone and
compiled. What bounds a small batch is the kernels of a step: as many empty ones in one graph. What bounds
a large one (4,096 rows) is its matrix products: these alone in one graph. Last, the minutes that the
protocol of Burda et al. takes at k = 1 (3,280 epochs of 60,000 rows in batches of 20, 784-200-200-50).

Without a GPU it says so. On a CPU it shows that it runs, and no figure of it means anything. Writes
build/bench/training_gpu.json.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.training_peers import (
    HIDDEN,
    LATENTS,
    PIXELS,
    ROWS,
    Steps,
    by_torch,
    pixels,
)
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.device_step import DeviceStep
from vae_engine.training import fit, minibatches, new_state

BATCHES = (100, 1024, 8192)
SMALL, LARGE = 100, 4096  # batches whose bounds are stated
AT_ONCE = {"cuda": 50, "cpu": 2}  # steps between two looks at the clock
PROTOCOL_EPOCHS, PROTOCOL_BATCH = 3280, 20
RECORD = Path("build/bench/training_gpu.json")


def plain_model() -> ModelConfig:
    column = Column(name="x", likelihood="bernoulli", width=PIXELS)
    return ModelConfig(columns=(column,), latents=LATENTS, hidden=(HIDDEN,), activation="tanh")


def protocol_model() -> ModelConfig:
    column = Column(
        name="x", likelihood="bernoulli", width=PIXELS, scale=255.0, binarization="dynamic"
    )
    return ModelConfig(columns=(column,), latents=50, hidden=(200, 200), activation="tanh")


def ours(config: ModelConfig, device: str, batch_rows: int, *, compiled: bool = False) -> Steps:
    plan = TrainingPlan(seed=0, epochs=10**6, batch_rows=batch_rows, device=device)
    state = new_state(config, plan, compiled=compiled)
    if state.on_device is None:  # on a CPU
        state.explicit = None
        state.on_device = DeviceStep(
            state.model, state.ascent, state.optimizer, None, compiled=compiled
        )
    grey = config.columns[0].binarization == "dynamic"
    x = torch.from_numpy(pixels()).mul_(200).byte() if grey else torch.from_numpy(pixels())
    batches = minibatches(x.to(device), plan)

    def steps(count: int) -> None:
        next(fit(state, batches, report_every=state.step + count))

    return steps


def captured(work: Callable[[], object], device: str) -> Steps:
    """The work as a graph, so many times; on a CPU as it is."""
    again = work
    if device != "cpu":
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()
        again = graph.replay

    def steps(count: int) -> None:
        for _ in range(count):
            again()

    return steps


def products(device: str, batch_rows: int) -> Steps:
    """The products of a step: forward, back to the first layer, and the gradients of the weights."""
    layers = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENTS), (LATENTS, HIDDEN), (HIDDEN, PIXELS)]
    weights = [torch.rand(outputs, inputs, device=device) for inputs, outputs in layers]
    gradients = [torch.empty_like(weight) for weight in weights]
    below = [torch.rand(batch_rows, inputs, device=device) for inputs, _ in layers]
    above = [torch.rand(batch_rows, outputs, device=device) for _, outputs in layers]

    def once() -> None:
        for y, weight, x in zip(below, weights, above, strict=True):
            torch.mm(y, weight.t(), out=x)
        for k in (3, 2, 1):
            torch.mm(above[k], weights[k], out=below[k])
        for x, y, gradient in zip(above, below, gradients, strict=True):
            torch.mm(x.t(), y, out=gradient)

    return captured(once, device)


def nothing(device: str, kernels: int) -> Steps:
    """So many kernels that add to one number."""
    number = torch.zeros((), device=device)

    def once() -> None:
        for _ in range(kernels):
            number.add_(1)

    return captured(once, device)


def kernels_of(steps: Steps, device: str) -> int:
    """How many kernels a step launches; on a CPU, operations."""
    on_gpu, count = device != "cpu", 10
    kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    steps(2)
    with profile(activities=[kind]) as seen:
        steps(count)
        wait(device)
    found = [e.count for e in seen.key_averages() if e.device_type.name == kind.name]
    return round(sum(found) / count)


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def rate(steps: Steps, device: str, seconds: float) -> float:
    """Steps a second, after a warm-up that has compiled and captured."""
    at_once = AT_ONCE[torch.device(device).type]
    steps(at_once)
    wait(device)
    started, count, elapsed_s = perf_counter(), 0, 0.0
    while elapsed_s < seconds:
        steps(at_once)
        wait(device)
        count, elapsed_s = count + at_once, perf_counter() - started
    return count / elapsed_s


def main(device: str, seconds: float) -> None:
    name = "the CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    found: dict[str, dict[str, float]] = {}
    model = plain_model()
    for batch in BATCHES:
        contestants = {
            "ours": ours(model, device, batch),
            "ours, compiled": ours(model, device, batch, compiled=True),
            "eager, fused Adam": by_torch(
                fused=True, compiled=False, device=device, batch_rows=batch
            ),
            "torch.compile, fused Adam": by_torch(
                fused=True, compiled=True, device=device, batch_rows=batch
            ),
        }
        rates = {n: batch * rate(steps, device, seconds) for n, steps in contestants.items()}
        found[str(batch)] = rates
        for n, value in rates.items():
            print(f"batch {batch:>5}  {n:<26} {value:14,.0f} samples/s", flush=True)

    kernels = kernels_of(ours(model, device, SMALL), device)
    launches = SMALL * rate(nothing(device, kernels), device, seconds)
    print(
        f"batch {SMALL:>5}  {kernels} kernels a step, empty: {launches:,.0f} samples/s; ours reaches "
        f"{found[str(SMALL)]['ours'] / launches:.0%}"
    )
    multiplied = LARGE * rate(products(device, LARGE), device, seconds)
    reached = LARGE * rate(ours(model, device, LARGE), device, seconds)
    print(
        f"batch {LARGE:>5}  products alone: {multiplied:,.0f} samples/s; ours makes "
        f"{reached:,.0f}, {reached / multiplied:.0%}"
    )
    minutes = {}
    for how in ("captured", "compiled and captured"):
        steps = ours(protocol_model(), device, PROTOCOL_BATCH, compiled=how != "captured")
        taken = PROTOCOL_EPOCHS * ROWS / PROTOCOL_BATCH
        minutes[how] = taken / rate(steps, device, seconds) / 60
        print(
            f"batch {PROTOCOL_BATCH:>5}  {PROTOCOL_EPOCHS:,} epochs, {how}: {minutes[how]:,.1f} minutes"
        )
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "device": name,
        "samples_per_s": found,
        "kernels_per_step": kernels,
        "empty_kernels_samples_per_s": launches,
        "products_alone_samples_per_s": multiplied,
        "ours_samples_per_s_beside_products": reached,
        "protocol_minutes": minutes,
    }
    RECORD.write_text(json.dumps(record, indent=2), encoding="utf-8")
    print(f"on {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0)
    chosen = parser.parse_args()
    if chosen.device != "cpu" and not torch.cuda.is_available():
        print("training on a GPU: not measured, for there is no CUDA device here")
    else:
        main(chosen.device, chosen.seconds)
