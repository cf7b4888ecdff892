"""Variational auto-encoders as plain PyTorch: models, bounds, estimators, training.

Axis names used in every signature of this package:

    samples   Monte Carlo draws of z for one row      (always the first axis)
    rows      rows of the table in this batch
    features  entries of x: the encoded columns, side by side
    latents   coordinates of z

Missing: a cell that was not observed is NaN in `x`; it is left out of the likelihood and
marked in the encoder's input, so every bound is that of the observed cells.

Units: every log-probability, bound and loss is in nats, per row, never per feature, and in
the units of the original columns (the Jacobian of standardization is included).
Sign: a name says what it is. `elbo` is a lower bound (higher is better), `loss` is
what the optimizer minimizes, `kl` is >= 0 in expectation.
Equations: by number, those of Kingma & Welling, *Auto-Encoding Variational Bayes* (2013).

To read it from the beginning: `posteriors` (q), `densities` and `likelihoods` (p), `model`
(both), `objectives` (the bounds), `training` (the loop), `encoding` (the features), `marginal`
(log p(x)). A whole life in a dozen lines:

>>> import torch
>>> from vae_engine.config import Column, ModelConfig, TrainingPlan
>>> from vae_engine.encoding import encode
>>> from vae_engine.marginal import estimate_log_marginal
>>> from vae_engine.statistics import Statistics
>>> from vae_engine.training import fit, minibatches, new_state
>>> height = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
>>> x = torch.cat([height, (height > 0).float()], 1)  # a number, and a code that follows it
>>> columns = (
...     Column(name="height", likelihood="gaussian", shift=170.0, scale=10.0),
...     Column(name="tall", likelihood="categorical", categories=2),
... )
>>> config = ModelConfig(columns=columns, latents=1, hidden=(16,))
>>> plan = TrainingPlan(seed=0, epochs=20, learning_rate=1e-2)
>>> state = new_state(config, plan, Statistics.of(config, x))
>>> reports = list(fit(state, minibatches(x, plan)))
>>> reports[-1].elbo_nats > reports[0].elbo_nats
True
>>> mean, stddev = encode(state.model, x)
>>> mean.shape
torch.Size([500, 1])
>>> keys = torch.arange(500)  # who a row is: its noise, whatever the batch
>>> estimate = estimate_log_marginal(state.model, x, keys, samples=100, seed=0)
>>> bool(estimate.log_marginal_nats.mean() > -4.1)  # two columns that know nothing: -4.41
True
"""
