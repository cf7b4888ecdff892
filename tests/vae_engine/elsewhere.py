"""A device that is not there: it computes on the CPU, and refuses to mix its numbers with the host's.

PyTorch knows the device "meta" on every machine, and this one goes by its name. A tensor of it
wraps one of the CPU; an operation on both fails, as on a GPU it would, but for a number alone.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
OnHost = torch.Generator
CROSSINGS = ("copy_", "_to_copy")  # the operations that may have operands on both sides


class There(torch.Tensor):
    """A tensor elsewhere."""

    here: Tensor

    @staticmethod
    def __new__(cls: type["There"], here: Tensor) -> "There":
        there = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=ELSEWHERE,
        )
        assert isinstance(there, There)
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.here.tolist()

    def __format__(self, specification: str) -> str:
        return format(self.here, specification)


def computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; what comes out is where the operands are, or where it is wanted."""
    name = function._schema.name.removeprefix("aten::")
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(operand, There) for operand in operands)
    on_host = [
        operand for operand in operands if not isinstance(operand, There) and operand.dim()
    ]
    assert not (there and on_host and name not in CROSSINGS), (
        f"{name} of operands on two devices"
    )
    wanted = kwargs.get("device")
    if wanted is not None:
        there = torch.device(wanted) == ELSEWHERE
        kwargs = kwargs | {"device": torch.device("cpu")}
    found = function(*tree_map(_here, args), **tree_map(_here, kwargs))
    if function._schema.is_mutable:
        return kwargs.get("out", args[0]) if function._schema.returns else None
    return tree_map(
        lambda leaf: There(leaf) if there and isinstance(leaf, Tensor) else leaf, found
    )


def _here(leaf: Any) -> Any:
    return leaf.here if isinstance(leaf, There) else leaf


class Elsewhere(TorchDispatchMode):
    """While it is entered, tensors may be sent to the device, and created on it."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(function, args, kwargs or {})


class Generator(OnHost):
    """Draws on the CPU and says that it does not."""

    device = ELSEWHERE

    def __new__(cls, device: torch.device | str = "cpu") -> OnHost:  # type: ignore[misc]
        there = torch.device(device) == ELSEWHERE
        return OnHost.__new__(cls if there else OnHost, "cpu")  # type: ignore[call-arg]


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Let there be the device; PyTorch is told that it can do what a GPU can."""
    autocast = torch.autocast
    with pytest.MonkeyPatch.context() as patch, Elsewhere():
        patch.setattr("torch.Generator", Generator)
        for name in ("_has_foreach_support", "_device_has_foreach_support"):
            patch.setattr(f"torch.nn.utils.clip_grad.{name}", lambda *_: True)
        patch.setattr("torch.autocast", lambda _, **settings: autocast("cpu", **settings))
        patch.setattr("torch._C._InferenceMode", lambda _: torch.no_grad())
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
