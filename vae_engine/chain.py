"""An MLP whose products are written into buffers: forward, back, and the gradients of its weights.

What autograd does, without a graph: a step allocates next to nothing, any rows may go through on
any thread, and the gradients of a layer are taken of all rows at once.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine.networks import Tanh, write_tanh
from vae_engine.products import affine, back_through, write_gradient

aten = torch.ops.aten


class Activation(NamedTuple):
    """y = f(x), written into y; and d f'(x), written into d."""

    apply: Callable[[Tensor, Tensor], object]  # of x and y
    back: Callable[[Tensor, Tensor, Tensor], object]  # of d, x and y


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    Tanh: Activation(
        write_tanh,
        lambda d, _x, y: aten.tanh_backward.grad_input(d, y, grad_input=d),
    ),
    nn.ReLU: Activation(
        lambda x, y: torch.clamp(x, min=0, out=y),
        lambda d, _x, y: aten.threshold_backward.grad_input(d, y, 0, grad_input=d),
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
    gradient: Tensor  # of both, in one vector
    weight_gradient: Tensor  # the two parts of it
    bias_gradient: Tensor

    @classmethod
    def of(cls, linear: nn.Linear) -> "Layer":
        """Take the parameters of a module, and room for their gradients."""
        weight, bias = linear.weight, linear.bias
        gradient = weight.new_zeros(weight.numel() + bias.numel())
        weight.grad = gradient[: weight.numel()].view_as(weight)
        bias.grad = gradient[weight.numel() :]
        return cls(linear, weight.detach(), bias.detach(), gradient, weight.grad, bias.grad)


Buffers = tuple[list[Tensor], list[Tensor], list[Tensor]]  # x, y and slopes, layer by layer


class Chain:
    """Affine maps with an activation after each but the last, and room for some rows.

        x_k = W_k y_(k-1) + b_k,   y_k = f(x_k)

    `slopes` are those of a loss by each x_k.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        activation: Activation | None,
        buffers: Buffers,
    ) -> None:
        self.layers, self.activation = layers, activation
        self.x, self.y, self.slopes = buffers
        self.ones = self.x[0].new_ones(len(self.x[0]))

    @classmethod
    def of(cls, modules: Sequence[nn.Module], rows: int) -> "Chain":
        """Make room for `rows` rows through linear modules with activations between."""
        layers = [Layer.of(module) for module in modules if isinstance(module, nn.Linear)]
        kinds = {type(module) for module in modules if not isinstance(module, nn.Linear)}
        activation = ACTIVATIONS[kinds.pop()] if kinds else None
        return cls(layers, activation, _room(layers, rows))

    def enlarged(self, rows: int) -> "Chain":
        """Return the same chain with room for more rows."""
        return Chain(self.layers, self.activation, _room(self.layers, rows))

    def part(self, rows: slice) -> "Chain":
        """Return the same chain on these rows alone, in the same buffers."""
        x, y, slopes = (
            [buffer[rows] for buffer in buffers] for buffers in (self.x, self.y, self.slopes)
        )
        return Chain(self.layers, self.activation, (x, y, slopes))

    def forward(self, below: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """Return what the last layer makes of the inputs: its buffer."""
        affine(self.layers[0].bias, below, self.layers[0].weight, self.x[0])
        for layer, before, y, x in zip(
            self.layers[1:], self.x[:-1], self.y, self.x[1:], strict=True
        ):
            assert self.activation is not None
            self.activation.apply(before, y)
            affine(layer.bias, y, layer.weight, x)
        return self.x[-1]

    def backward(self) -> None:
        """From the slopes of the last layer, which the caller wrote, to those of the first."""
        for k in range(len(self.layers) - 1, 0, -1):
            assert self.activation is not None
            back_through(self.slopes[k], self.layers[k].weight, self.slopes[k - 1])
            self.activation.back(self.slopes[k - 1], self.x[k - 1], self.y[k - 1])

    def slopes_below(self) -> Float[Tensor, "rows inputs"]:
        """Slopes of the loss by the inputs, after `backward`."""
        return torch.mm(self.slopes[0], self.layers[0].weight)

    def write_gradient(self, k: int, below: Float[Tensor, "rows inputs"], scale: float) -> None:
        """Write the gradients of layer k, times `scale`, into those of its parameters."""
        layer, slopes = self.layers[k], self.slopes[k]
        write_gradient(slopes, self.y[k - 1] if k else below, scale, layer.weight_gradient)
        bias = layer.bias_gradient
        torch.addmv(bias, slopes.t(), self.ones, beta=0, alpha=scale, out=bias)  # a sum of rows


def _room(layers: Sequence[Layer], rows: int) -> Buffers:
    x, y, slopes = (
        [layer.weight.new_empty(rows, len(layer.bias)) for layer in layers] for _ in range(3)
    )
    return x, y[:-1], slopes
