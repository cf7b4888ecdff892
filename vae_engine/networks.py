"""The networks between columns and latents. Initial weights are a function of a generator."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
}


def linear(
    inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0
) -> nn.Linear:
    """Return a layer with weights uniform in +-gain sqrt(6 / (inputs + outputs)) and no bias yet.

    Glorot & Bengio (2010), as Burda et al. have it. Drawn from `generator` alone: PyTorch's own
    initialization would read the global state.
    """
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, gain=gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Affine maps, each followed by the activation: (..., inputs) -> (..., hidden[-1])."""

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], activation: str, generator: torch.Generator
    ) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [linear(before, after, generator), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.outputs = widths[-1]

    def forward(self, x: Float[Tensor, "*a inputs"]) -> Float[Tensor, "*a outputs"]:
        """Apply the layers."""
        return self.layers(x)
