"""The E step of Monte Carlo EM: draws from p(z | x) by Hamiltonian Monte Carlo, without an encoder.

K&W, section 5 and figure 3: 10 leapfrog steps, step size tuned to an acceptance of 90 %, then
5 updates of the weights by the same draws. Chains begin at the prior in every batch, so that a
step is a function of (weights, batch, generator) and a killed run can be resumed.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.hmc import adapted, evaluate, kick, transition
from vae_engine.model import VAE

UPDATES = 5  # of the weights by the same draws
LEAPFROG_STEPS = 10
TUNING = 15  # transitions in which the step size finds its acceptance
SETTLED = 5  # and those after it, with the step size fixed
ACCEPTANCE = 0.9
GAIN = 0.5
FIRST_STEP_SIZE = 0.1


def posterior_draws(
    model: VAE,
    x: Shaped[Tensor, "rows features"],
    samples: int,
    generator: torch.Generator,
) -> Float[Tensor, "samples rows latents"]:
    """Draw z from p(z | x) of each row, `samples` chains each, after tuning and settling."""

    def terms(z: Tensor) -> tuple[Tensor, ...]:
        return (model.log_likelihood(x, z) + model.log_prior(z),)

    start = torch.stack([model.prior.sample(len(x), generator) for _ in range(samples)])
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    chains = torch.arange(len(x), device=x.device)
    point = evaluate(terms, start.to(model.head.weight.dtype))
    step_size = point.z.new_full((len(x),), FIRST_STEP_SIZE)
    weights = step_size.new_ones(1)
    for number in range(TUNING + SETTLED):
        noise = kick(seed, chains, number, point.z)
        point, acceptance = transition(
            terms, weights, point, noise, step_size[:, None], LEAPFROG_STEPS
        )
        if number < TUNING:
            step_size = adapted(step_size, acceptance, ACCEPTANCE, GAIN)
    return point.z
