"""Parameters of a likelihood that are one number for all rows, and move faster than weights."""

from jaxtyping import Float
from torch import Tensor, nn

PACE = 10


class Paced(nn.Module):
    """Numbers that an optimizer moves `PACE` times as far in a step as it does weights.

    They begin where the train rows have them, z unseen, and may have far to go: a count or a code
    that z explains is hardly dispersed at all. Adam moves every parameter by about its rate, and a
    weight is one of hundreds that act together; these have nobody beside them, so what is kept
    is a `PACE`-th of each.
    """

    def __init__(self, start: Float[Tensor, " numbers"]) -> None:
        super().__init__()
        self.slow = nn.Parameter(start / PACE)

    def forward(self) -> Float[Tensor, " numbers"]:
        """Return the numbers."""
        return PACE * self.slow


def paced(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model from before there was a pace as they are kept now."""
    names = {name for name, part in model.named_modules() if isinstance(part, Paced)}
    return {
        f"{name}.slow" if name in names else name: weight / PACE if name in names else weight
        for name, weight in weights.items()
    }
