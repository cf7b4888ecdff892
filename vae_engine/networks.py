"""The networks between columns and latents. Initial weights are a function of a generator."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from vae_engine.products import IN_ONEDNN, activated, applied, asks_onednn

CACHED_ENTRIES = 1 << 17  # half a megabyte of float32: they stay in a core's cache
MINUS_ONE = torch.tensor(-1.0)


class Tanh(nn.Module):
    """tanh; on a CPU without a gradient 2 sigmoid(2 x) - 1: a fourth of the time, within 2e-7."""

    def forward(self, x: Float[Tensor, "*a"]) -> Float[Tensor, "*a"]:
        """Return tanh(x), entry by entry."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return x.tanh()
        x = x.contiguous()
        return write_tanh(x, torch.empty_like(x))


def write_tanh(x: Float[Tensor, "*a"], out: Float[Tensor, "*a"]) -> Float[Tensor, "*a"]:
    """Write 2 sigmoid(2 x) - 1 into `out`, which may be x: some entries at a time, all passes."""
    for some, result in zip(
        x.view(-1).split(CACHED_ENTRIES), out.view(-1).split(CACHED_ENTRIES), strict=True
    ):
        torch.sigmoid(torch.mul(some, 2, out=result), out=result)
        torch.add(MINUS_ONE, result, alpha=2, out=result)
    return out


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
}

IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda x: write_tanh(x, x),
    "relu": torch.relu_,
    "silu": lambda x: nn.functional.silu(x, inplace=True),
}


@dataclass(frozen=True)
class Initial:
    """How weights begin: drawn from `generator` alone, for PyTorch's own reads the global state.

    Uniform in +-sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010, as Burda et al. have it), or
    N(0, stddev^2) where a stddev is given (K&W: 0.01). Biases begin at 0.
    """

    generator: torch.Generator
    stddev: float | None = None

    def fill(self, weight: Tensor) -> None:
        """Draw a weight in place."""
        if self.stddev is None:
            nn.init.xavier_uniform_(weight, generator=self.generator)
        else:
            nn.init.normal_(weight, std=self.stddev, generator=self.generator)


class Affine(nn.Linear):
    """An affine map: where no gradient is wanted, on a CPU, by the faster of two libraries."""

    def forward(self, x: Float[Tensor, "*a inputs"]) -> Float[Tensor, "*a outputs"]:
        """Return x W^T + b."""
        return applied(x, self.weight, self.bias)


def linear(inputs: int, outputs: int, initial: Initial) -> nn.Linear:
    """Return an affine map with drawn weights and no bias yet."""
    layer = Affine(inputs, outputs, device="meta")
    _begin(layer, initial)
    return layer


def _begin(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, initial: Initial) -> None:
    """Give a layer of shapes alone its weights, and biases of 0.

    `nn.utils.skip_init` would do the first, and import a compiler on the way.
    """
    assert layer.bias is not None
    layer.weight = nn.Parameter(torch.empty(layer.weight.shape))
    layer.bias = nn.Parameter(torch.zeros(layer.bias.shape))
    initial.fill(layer.weight)


def frozen(module: nn.Module) -> Callable[..., Any]:
    """Return the same map, whose parameters pass no gradient on; its arguments still do."""
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def call(*arguments: Any, **settings: Any) -> Any:
        return functional_call(module, parameters, arguments, settings)

    return call


class MLP(nn.Module):
    """Affine maps, each followed by the activation: (..., inputs) -> (..., hidden[-1])."""

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], activation: str, initial: Initial
    ) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [linear(before, after, initial), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.activation = activation
        self.outputs = widths[-1]

    def forward(self, x: Float[Tensor, "*a inputs"]) -> Float[Tensor, "*a outputs"]:
        """Apply the layers; both halves of one at once where oneDNN is asked."""
        if torch.is_grad_enabled() or self.activation not in IN_ONEDNN:
            return self.layers(x)
        return self._without_gradient(x, self.layers)

    @property
    def first(self) -> nn.Linear | None:
        """The first affine map; None where there is none."""
        layer = next(iter(self.layers), None)
        assert layer is None or isinstance(layer, nn.Linear)
        return layer

    def after_first(self, x: Float[Tensor, "*a hidden"]) -> Float[Tensor, "*a outputs"]:
        """Apply all but the first affine map to what that one gave, and may be overwritten."""
        _, activation, *layers = self.layers
        overwrite = IN_PLACE.get(self.activation, activation)
        return self._without_gradient(overwrite(x), layers)

    def _without_gradient(self, x: Tensor, layers: Iterable[nn.Module]) -> Tensor:
        steps = iter(layers)
        for affine, activation in zip(steps, steps, strict=True):
            assert isinstance(affine, Affine)
            if self.activation in IN_ONEDNN and asks_onednn(x, affine.weight):
                x = activated(x, affine.weight, affine.bias, self.activation)
            else:
                x = activation(affine(x))
        return x


class Offset(nn.Module):
    """Add one learned number to each output: the bias of a network that ends in convolutions."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "*a outputs"]) -> Float[Tensor, "*a outputs"]:
        """Return x + bias."""
        return x + self.bias


class ResidualBlock(nn.Module):
    """x + convolution(activation(convolution(activation(x)))); the second begins at 0.

    It begins as the identity, which is what a normalization would be there for; batches are not
    normalized, because then a row's features would depend on its neighbours.
    """

    def __init__(self, channels: int, activation: str, initial: Initial) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.first = _convolution(channels, channels, initial)
        self.second = _convolution(channels, channels, initial)
        nn.init.zeros_(self.second.weight)

    def forward(
        self, x: Float[Tensor, "n channels height width"]
    ) -> Float[Tensor, "n channels height width"]:
        """Return x with a correction added."""
        return x + self.second(self.activation(self.first(self.activation(x))))


@dataclass(frozen=True)
class Levels:
    """Sizes and channels of a picture as it is halved, rounding up: any height and any width."""

    image: tuple[int, int, int]  # height, width, channels
    channels: tuple[int, ...]  # after each halving

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width at full size and after each halving."""
        sizes = [self.image[:2]]
        for _ in self.channels:
            height, width = sizes[-1]
            sizes.append((-(-height // 2), -(-width // 2)))
        return sizes

    @property
    def bottom(self) -> tuple[int, int, int]:
        """Channels, height and width after the last halving."""
        return (self.channels[-1], *self.sizes[-1])

    @property
    def bottom_cells(self) -> int:
        """Numbers after the last halving."""
        channels, height, width = self.bottom
        return channels * height * width


class ImageEncoder(nn.Module):
    """Halve the picture level by level: (rows, height width channels) -> (rows, outputs)."""

    def __init__(
        self, levels: Levels, activation: str, initial: Initial, *, residual: bool
    ) -> None:
        super().__init__()
        self.levels = levels
        self.outputs = levels.bottom_cells
        layers: list[nn.Module] = []
        for before, after in pairwise((levels.image[2], *levels.channels)):
            layers += [_convolution(before, after, initial, stride=2)]
            layers += [ResidualBlock(after, activation, initial)] if residual else []
            layers += [ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Float[Tensor, "rows pixels"]) -> Float[Tensor, "rows outputs"]:
        """Return what is left at the lowest level, flat."""
        picture = pixels.unflatten(-1, self.levels.image).permute(0, 3, 1, 2)
        return self.layers(picture).flatten(1)


class ImageDecoder(nn.Module):
    """Double level by level to exactly the size the encoder started from.

    Where a halving rounded up, the doubling gives one row or column less: `output_padding` says
    which. Ends in `planes` numbers for each channel of each pixel, planes slowest and channels
    fastest, as the cells of `x` are laid out.
    """

    def __init__(
        self,
        inputs: int,
        levels: Levels,
        planes: int,
        activation: str,
        initial: Initial,
        *,
        residual: bool,
    ) -> None:
        super().__init__()
        self.levels, self.planes = levels, planes
        self.first = linear(inputs, levels.bottom_cells, initial)
        self.activation = ACTIVATIONS[activation]()
        layers: list[nn.Module] = []
        channels = (levels.channels[0], *levels.channels)
        for k in reversed(range(len(levels.channels))):
            layers += [ResidualBlock(channels[k + 1], activation, initial)] if residual else []
            layers += [_doubling(channels[k + 1], channels[k], levels.sizes[k], initial)]
            layers += [ACTIVATIONS[activation]()]
        layers += [_convolution(channels[0], planes * levels.image[2], initial)]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, z: Float[Tensor, "samples rows inputs"]
    ) -> Float[Tensor, "samples rows _"]:
        """Return the numbers of each draw of each row, flat."""
        bottom = self.activation(self.first(z)).flatten(0, 1).unflatten(-1, self.levels.bottom)
        grid = self.layers(bottom).unflatten(1, (self.planes, self.levels.image[2]))
        return grid.permute(0, 1, 3, 4, 2).flatten(1).unflatten(0, z.shape[:2])


def _convolution(inputs: int, outputs: int, initial: Initial, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, device="meta")
    _begin(layer, initial)
    return layer


def _doubling(
    inputs: int, outputs: int, size: tuple[int, int], initial: Initial
) -> nn.ConvTranspose2d:
    """Return the map from ceil(size / 2) to `size`."""
    padding = int(size[0] % 2 == 0), int(size[1] % 2 == 0)
    layer = nn.ConvTranspose2d(
        inputs, outputs, 3, stride=2, padding=1, output_padding=padding, device="meta"
    )
    _begin(layer, initial)
    return layer
