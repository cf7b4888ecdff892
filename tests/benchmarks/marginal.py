"""log p(x) by importance sampling: ours beside a plain torch loop, and pythae where it is installed.

    python -m tests.benchmarks.marginal [--rows 100] [--samples 5000] [--pythae PYTHON]

One model (784-500-20, tanh, Bernoulli), the same rows, the same number of draws, all threads.
PYTHON is the interpreter of an environment that has pythae: `make bench` makes one where it
installs. The contestants take turns, five rounds; medians, in milliseconds a row.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_engine.config import Column, ModelConfig
from vae_engine.marginal import estimate_log_marginal
from vae_engine.model import VAE, build_model

PIXELS, HIDDEN, LATENTS, ROUNDS = 784, 500, 20, 5

PYTHAE = """
import json, sys, time, torch
from pythae.models import VAE, VAEConfig
rows, samples, rounds = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=20, reconstruction_loss="bce"))
x = (torch.rand(rows, 1, 28, 28, generator=torch.Generator().manual_seed(0)) > 0.8).float()
times = []
for _ in range(rounds):
    started = time.perf_counter()
    with torch.no_grad():
        model.get_nll(x, n_samples=samples, batch_size=500)
    times.append(1e3 * (time.perf_counter() - started) / rows)
print(json.dumps(times))
"""


def written_by_hand(model: VAE) -> nn.Sequential:
    """The decoder in PyTorch's own layers."""
    decoder = nn.Sequential(
        nn.Linear(LATENTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS)
    ).requires_grad_(requires_grad=False)
    ours = [*model.decoder.parameters(), *model.tail.parameters()]
    for theirs, parameter in zip(decoder.parameters(), ours, strict=True):
        theirs.copy_(parameter)
    return decoder


def plain(model: VAE, x: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """What one writes in ten minutes: a row at a time, in chunks of 500 draws, logits and BCE."""
    decoder, found = written_by_hand(model), []
    for row in x:
        q = model.posterior(row[None])
        parts = []
        for _ in range(0, samples, 500):
            noise = torch.randn(500, 1, LATENTS, generator=generator)
            z = q.mean + q.stddev * noise
            logits = decoder(z)[:, 0]
            log_p = -functional.binary_cross_entropy_with_logits(
                logits, row.expand(500, -1), reduction="none"
            ).sum(-1)
            log_prior = -0.5 * z.square().sum((-1, -2))
            log_q = -0.5 * noise.square().sum((-1, -2)) - q.stddev.log().sum()
            parts.append(log_p + log_prior - log_q)
        found.append(torch.cat(parts).logsumexp(0) - torch.tensor(samples).log())
    return torch.stack(found)


def main() -> None:
    """Print the table and write JSON beside nothing: the last line is the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--pythae", type=Path)
    options = parser.parse_args()
    column = Column(name="x", likelihood="bernoulli", width=PIXELS)
    config = ModelConfig(
        columns=(column,), latents=LATENTS, hidden=(HIDDEN,), activation="tanh"
    )
    model = build_model(config, seed=0)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(options.rows, PIXELS, generator=generator) > 0.8).float()
    keys = torch.arange(options.rows)
    times: dict[str, list[float]] = {"ours": [], "plain torch": [], "pythae get_nll": []}
    with torch.inference_mode():
        ours = estimate_log_marginal(model, x, keys, samples=options.samples, seed=0)
        theirs = plain(model, x, options.samples, generator)
        for _ in range(ROUNDS):
            started = perf_counter()
            estimate_log_marginal(model, x, keys, samples=options.samples, seed=0)
            times["ours"].append(1e3 * (perf_counter() - started) / options.rows)
            started = perf_counter()
            plain(model, x, options.samples, generator)
            times["plain torch"].append(1e3 * (perf_counter() - started) / options.rows)
            if options.pythae is not None:
                times["pythae get_nll"] += _pythae(options.pythae, options)
    gap = (ours.log_marginal_nats - theirs).mean().item()
    medians = {name: median(found) for name, found in times.items() if found}
    for name, value in medians.items():
        print(f"{name:<16} {value:8.1f} ms a row   {value / medians['ours']:5.2f} × ours")
    print(f"mean difference of the estimates: {gap:+.3f} nats")
    print(json.dumps({"threads": torch.get_num_threads(), "ms_per_row": medians}))


def _pythae(python: Path, options: argparse.Namespace) -> list[float]:
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(PYTHAE)
        script.flush()
        rows = max(2, options.rows // 10)  # it is slow; a row costs the same
        done = subprocess.run(
            [str(python), script.name, str(rows), str(options.samples), "1"],
            capture_output=True,
            text=True,
            check=True,
        )
    return [float(value) for value in json.loads(done.stdout.splitlines()[-1])]


if __name__ == "__main__":
    main()
