"""The training of one small model as one writes it with other tools; run where they are installed.

    python tests/benchmarks/training_peers.py NAME

NAME is one of CONTESTANTS. The work: 60,000 × 784 black and white cells in memory, 784-500-20, tanh,
Bernoulli, batches of 100, Adam at 1e-3, one draw of z. Gets ready, prints the seconds that the
first step took, and then for each number of steps that it reads the seconds that they take.
Knows nothing of our code.
"""

import sys
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS, PIXELS, HIDDEN, LATENTS, BATCH_ROWS = 60_000, 784, 500, 20, 100
SCANNED = 50  # steps of one compiled loop

Steps = Callable[[int], object]


def pixels() -> npt.NDArray[np.float32]:
    return (np.random.default_rng(0).random((ROWS, PIXELS)) < 0.2).astype(np.float32)


def batches(order: Callable[[], Any], batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
    while True:
        yield from order().split(batch_rows)


def by_torch(
    *, fused: bool, compiled: bool, device: str = "cpu", batch_rows: int = BATCH_ROWS
) -> Steps:
    import torch
    from torch import nn
    from torch.nn import functional

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, 2 * LATENTS)
            self.decoder, self.tail = nn.Linear(LATENTS, HIDDEN), nn.Linear(HIDDEN, PIXELS)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean, log_stddev = self.head(torch.tanh(self.encoder(x))).chunk(2, -1)
            z = mean + log_stddev.exp() * torch.randn_like(mean)
            logits = self.tail(torch.tanh(self.decoder(z)))
            nll = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            kl = 0.5 * (mean.square() + (2 * log_stddev).exp() - 1 - 2 * log_stddev).sum()
            return (nll + kl) / len(x)

    model, x = Model().to(device), torch.from_numpy(pixels()).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused or None)
    loss_of = torch.compile(model) if compiled else model
    indices = batches(lambda: torch.randperm(ROWS, device=device), batch_rows)

    def steps(count: int) -> None:
        for _ in range(count):
            loss = loss_of(x[next(indices)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def by_pyro() -> Steps:
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, TraceMeanField_ELBO
    from torch import nn

    encoder = nn.Sequential(
        nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENTS)
    )
    decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))

    def model(x: torch.Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENTS), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.module("encoder", encoder)
        mean, log_stddev = encoder(x).chunk(2, -1)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(mean, log_stddev.exp()).to_event(1))

    pyro.enable_validation(False)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    x = torch.from_numpy(pixels())
    indices = batches(lambda: torch.randperm(ROWS))

    def steps(count: int) -> None:
        for _ in range(count):
            svi.step(x[next(indices)])

    return steps


def by_pythae() -> Steps:
    import tempfile

    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh())
            self.mean, self.log_var = nn.Linear(HIDDEN, LATENTS), nn.Linear(HIDDEN, LATENTS)

        def forward(self, x: torch.Tensor) -> Any:
            h = self.body(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(LATENTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS)]
            self.body = nn.Sequential(*layers, nn.Sigmoid())

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z))

    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENTS, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())

    def steps(count: int) -> None:
        """One epoch of its own trainer, on as many rows as it takes."""
        x = torch.from_numpy(pixels()[: count * BATCH_ROWS])
        settings = BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            num_epochs=1,
            per_device_train_batch_size=BATCH_ROWS,
            learning_rate=1e-3,
            optimizer_cls="Adam",
            no_cuda=True,
        )
        rows = BaseDataset(x, torch.zeros(len(x)))
        trainer = BaseTrainer(model=model, train_dataset=rows, training_config=settings)
        trainer.prepare_training()
        started = perf_counter()
        trainer.train_step(epoch=1)
        steps.elapsed_s = perf_counter() - started  # type: ignore[attr-defined]

    return steps


def by_numpyro() -> Steps:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.example_libraries import stax
    from numpyro.infer import SVI, TraceMeanField_ELBO

    init_encoder, encode = stax.serial(
        stax.Dense(HIDDEN),
        stax.Tanh,
        stax.FanOut(2),
        stax.parallel(stax.Dense(LATENTS), stax.serial(stax.Dense(LATENTS), stax.Exp)),
    )
    decoder = stax.serial(stax.Dense(HIDDEN), stax.Tanh, stax.Dense(PIXELS))

    def model(x: Any) -> None:
        decode = numpyro.module("decoder", decoder, (BATCH_ROWS, LATENTS))
        with numpyro.plate("rows", BATCH_ROWS):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([LATENTS]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encoder = numpyro.module("encoder", (init_encoder, encode), (BATCH_ROWS, PIXELS))
        mean, stddev = encoder(x)
        with numpyro.plate("rows", BATCH_ROWS):
            numpyro.sample("z", dist.Normal(mean, stddev).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), TraceMeanField_ELBO())
    x = jnp.asarray(pixels())
    random = np.random.default_rng(0)

    def step(state: Any, index: Any) -> Any:
        state, loss = svi.update(state, x[index])
        return state, loss

    scan = jax.jit(lambda state, indices: jax.lax.scan(step, state, indices))
    state = svi.init(jax.random.PRNGKey(0), x[:BATCH_ROWS])

    def steps(count: int) -> None:
        nonlocal state
        order = random.permutation(ROWS)[: count * BATCH_ROWS].reshape(-1, BATCH_ROWS)
        for start in range(0, len(order), SCANNED):
            state, losses = scan(state, order[start : start + SCANNED])
        losses.block_until_ready()

    return steps


CONTESTANTS: dict[str, Callable[[], Steps]] = {
    "eager": lambda: by_torch(fused=False, compiled=False),
    "eager, fused Adam": lambda: by_torch(fused=True, compiled=False),
    "torch.compile, fused Adam": lambda: by_torch(fused=True, compiled=True),
    "pythae": by_pythae,
    "Pyro": by_pyro,
    "NumPyro, scan": by_numpyro,
}


def serve(build: Callable[[], Steps]) -> None:
    """Answer each number of steps on a line of its own with the seconds that they took."""
    answers, sys.stdout = sys.stdout, sys.stderr  # some print what they do
    steps = build()
    started = perf_counter()
    steps(SCANNED)
    print(perf_counter() - started, file=answers, flush=True)
    for line in sys.stdin:
        started = perf_counter()
        steps(int(line))
        elapsed_s = perf_counter() - started
        print(getattr(steps, "elapsed_s", elapsed_s), file=answers, flush=True)


if __name__ == "__main__":
    serve(CONTESTANTS[sys.argv[1]])
