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
"""
