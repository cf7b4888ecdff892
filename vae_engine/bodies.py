"""Which networks a model gets: one MLP, or convolutions for its picture and an MLP for the rest."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine.config import ModelConfig
from vae_engine.inputs import InputLayer
from vae_engine.likelihoods.rows import RowLikelihood
from vae_engine.networks import MLP, ImageDecoder, ImageEncoder, Initial, Levels, Offset, linear

BESIDE = 128  # hidden units for the columns beside a picture


class PictureEncoder(nn.Module):
    """Convolutions for the pixels, an MLP for the other inputs, side by side."""

    def __init__(self, config: ModelConfig, inputs: InputLayer, initial: Initial) -> None:
        super().__init__()
        k, levels = _picture(config)
        self.start = inputs.place_of[k]
        self.stop = self.start + config.columns[k].width
        residual = config.network == "residual"
        self.pixels = ImageEncoder(levels, config.activation, initial, residual=residual)
        self.others = inputs.width - (self.stop - self.start)
        self.beside = MLP(
            self.others, (BESIDE,) if self.others else (), config.activation, initial
        )
        self.outputs = self.pixels.outputs + self.beside.outputs

    def forward(self, inputs: Float[Tensor, "rows width"]) -> Float[Tensor, "rows outputs"]:
        """Return what both networks say."""
        pixels = self.pixels(inputs[:, self.start : self.stop])
        if not self.others:
            return pixels
        others = torch.cat([inputs[:, : self.start], inputs[:, self.stop :]], -1)
        return torch.cat([pixels, self.beside(others)], -1)


class PictureDecoder(nn.Module):
    """Convolutions for the picture's outputs, an MLP for those of the other columns."""

    def __init__(
        self, config: ModelConfig, likelihood: RowLikelihood, initial: Initial
    ) -> None:
        super().__init__()
        k, levels = _picture(config)
        self.start, self.stop = likelihood.outputs_of(k)
        planes = (self.stop - self.start) // config.columns[k].width
        self.pixels = ImageDecoder(
            config.latents,
            levels,
            planes,
            config.activation,
            initial,
            residual=config.network == "residual",
        )
        others = likelihood.outputs - (self.stop - self.start)
        self.beside = (
            nn.Sequential(
                MLP(config.latents, (BESIDE,), config.activation, initial),
                linear(BESIDE, others, initial),
            )
            if others
            else None
        )

    def forward(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows outputs"]:
        """Return the outputs of every column in the order of the likelihood."""
        pixels = self.pixels(z)
        if self.beside is None:
            return pixels
        others = self.beside(z)
        return torch.cat([others[..., : self.start], pixels, others[..., self.start :]], -1)


def build_encoder(
    config: ModelConfig, inputs: InputLayer, width: int, initial: Initial
) -> MLP | PictureEncoder:
    """Build the network from so many inputs, or components of them, to the posterior's head."""
    if config.network == "mlp":
        return MLP(width, config.hidden, config.activation, initial)
    return PictureEncoder(config, inputs, initial)


def build_decoder(
    config: ModelConfig, likelihood: RowLikelihood, initial: Initial
) -> tuple[nn.Module, nn.Linear | Offset]:
    """Build the network from z to the likelihood's outputs, and its last step, which has a bias."""
    if config.network == "mlp":
        body = MLP(config.latents, config.hidden[::-1], config.activation, initial)
        return body, linear(body.outputs, likelihood.outputs, initial)
    return PictureDecoder(config, likelihood, initial), Offset(likelihood.outputs)


def _picture(config: ModelConfig) -> tuple[int, Levels]:
    """Number of the column of pixels, and its sizes level by level."""
    k = next(k for k, column in enumerate(config.columns) if column.image is not None)
    image = config.columns[k].image
    assert image is not None
    return k, Levels(image, config.hidden)
