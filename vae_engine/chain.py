"""An MLP without a graph: forward, back, and the gradients of its weights.

What autograd does, with less: any rows may go through on any thread, the gradients of a layer are
taken of all rows at once, and products are written into buffers or, where the library that makes
them brings tensors of its own, those take the buffers' places: nothing is copied.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine.networks import Tanh, write_tanh
from vae_engine.products import affine, back_through, gradient_of_weight, large

aten = torch.ops.aten


class Activation(NamedTuple):
    """y = f(x), written into y; and d f'(x), written into d."""

    apply: Callable[[Tensor, Tensor], object]  # of x and y
    back: Callable[[Tensor, Tensor, Tensor], object]  # of d, x and y
    with_product: str | None = None  # its name in oneDNN, where f' is known from y alone


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    Tanh: Activation(
        write_tanh,
        lambda d, _x, y: aten.tanh_backward.grad_input(d, y, grad_input=d),
        "tanh",
    ),
    nn.ReLU: Activation(
        lambda x, y: torch.clamp(x, min=0, out=y),
        lambda d, _x, y: aten.threshold_backward.grad_input(d, y, 0, grad_input=d),
        "relu",
    ),
    nn.SiLU: Activation(
        lambda x, y: aten.silu.out(x, out=y),
        lambda d, x, _y: aten.silu_backward.grad_input(d, x, grad_input=d),
    ),
    nn.GELU: Activation(
        lambda x, y: aten.gelu.out(x, out=y),
        lambda d, x, _y: aten.gelu_backward.grad_input(d, x, grad_input=d),
    ),
    nn.Softplus: Activation(
        lambda x, y: aten.softplus.out(x, out=y),
        lambda d, x, _y: aten.softplus_backward.grad_input(d, x, 1, 20, grad_input=d),
    ),
}


class Layer(NamedTuple):
    """An affine map, without what autograd and `nn.Module` cost at each look."""

    module: nn.Linear
    weight: Tensor
    bias: Tensor
    weight_room: Tensor  # for the gradient of the weight
    bias_gradient: Tensor
    half: bool  # whether its large products are taken in bfloat16

    @classmethod
    def of(cls, linear: nn.Linear, *, half: bool) -> "Layer":
        """Take the parameters of a module, and room for their gradients."""
        linear.weight.grad = torch.zeros_like(linear.weight)
        linear.bias.grad = torch.zeros_like(linear.bias)
        weight, bias = linear.weight.detach(), linear.bias.detach()
        return cls(linear, weight, bias, linear.weight.grad, linear.bias.grad, half)


Buffers = tuple[list[Tensor], list[Tensor], list[Tensor]]  # x, y and slopes, layer by layer


class Chain:
    """Affine maps with an activation after each but the last, and room for some rows.

        x_k = W_k y_(k-1) + b_k,   y_k = f(x_k)

    `slopes` are those of a loss by each x_k. A part of a chain writes into the buffers of the
    whole; in another one the results of large products take the buffers' places.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        activation: Activation | None,
        buffers: Buffers,
        *,
        is_part: bool = False,
    ) -> None:
        self.layers, self.activation, self.is_part = layers, activation, is_part
        self.x, self.y, self.slopes = buffers
        self.ones = self.x[0].new_ones(len(self.x[0]))
        self.fused = None if activation is None or is_part else activation.with_product

    @classmethod
    def of(cls, modules: Sequence[nn.Module], rows: int, *, half: bool = False) -> "Chain":
        """Make room for `rows` rows through linear modules with activations between."""
        layers = [
            Layer.of(module, half=half) for module in modules if isinstance(module, nn.Linear)
        ]
        kinds = {type(module) for module in modules if not isinstance(module, nn.Linear)}
        activation = ACTIVATIONS[kinds.pop()] if kinds else None
        return cls(layers, activation, _room(layers, rows))

    def enlarged(self, rows: int) -> "Chain":
        """Return the same chain with room for more rows."""
        return Chain(self.layers, self.activation, _room(self.layers, rows))

    def first(self, rows: int) -> "Chain":
        """Return a chain of the same layers with room for no more than so many rows."""
        return Chain(self.layers, self.activation, self._some(slice(0, rows)))

    def part(self, rows: slice) -> "Chain":
        """Return the same chain on these rows alone, in the same buffers."""
        return Chain(self.layers, self.activation, self._some(rows), is_part=True)

    def forward(self, below: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """Return what the last layer makes of the inputs."""
        *hidden, last = self.layers
        for k, layer in enumerate(hidden):
            below = self._activated(k, layer, below)
        found = affine(last.bias, below, last.weight, self.x[-1], half=last.half)
        self._put(self.x, -1, found)
        return self.x[-1]

    def backward(self) -> None:
        """From the slopes of the last layer, which the caller wrote, to those of the first."""
        for k in range(len(self.layers) - 1, 0, -1):
            assert self.activation is not None
            layer, room = self.layers[k], self.slopes[k - 1]
            found = back_through(self.slopes[k], layer.weight, room, half=layer.half)
            self._put(self.slopes, k - 1, found)
            self.activation.back(self.slopes[k - 1], self.x[k - 1], self.y[k - 1])

    def slopes_below(self) -> Float[Tensor, "rows inputs"]:
        """Slopes of the loss by the inputs, after `backward`."""
        return torch.mm(self.slopes[0], self.layers[0].weight)

    def write_gradient(self, k: int, below: Float[Tensor, "rows inputs"]) -> float:
        """Give the parameters of layer k their gradients; return the squared length of both."""
        layer, slopes = self.layers[k], self.slopes[k]
        x = self.y[k - 1] if k else below
        weight = gradient_of_weight(slopes, x, layer.weight_room, half=layer.half)
        bias = torch.mv(slopes.t(), self.ones, out=layer.bias_gradient)  # a sum over rows
        layer.module.weight.grad = weight
        flat = weight.view(-1)
        return float(torch.dot(flat, flat)) + float(torch.dot(bias, bias))

    def _activated(self, k: int, layer: Layer, below: Tensor) -> Tensor:
        """Return y_k; x_k is not kept where f' is known without it."""
        assert self.activation is not None
        if self.fused is not None and large(len(below), layer.weight):
            self.y[k] = affine(
                layer.bias, below, layer.weight, self.x[k], self.fused, half=layer.half
            )
        else:
            found = affine(layer.bias, below, layer.weight, self.x[k], half=layer.half)
            self._put(self.x, k, found)
            self.activation.apply(self.x[k], self.y[k])
        return self.y[k]

    def _some(self, rows: slice) -> Buffers:
        x, y, slopes = (
            [buffer[rows] for buffer in buffers] for buffers in (self.x, self.y, self.slopes)
        )
        return x, y, slopes

    def _put(self, buffers: list[Tensor], k: int, result: Tensor) -> None:
        if not self.is_part:
            buffers[k] = result
        elif result is not buffers[k]:
            buffers[k].copy_(result)


def _room(layers: Sequence[Layer], rows: int) -> Buffers:
    x, y, slopes = (
        [layer.weight.new_empty(rows, len(layer.bias)) for layer in layers] for _ in range(3)
    )
    return x, y[:-1], slopes
