"""The gradient of an MLP's ELBO on black and white pixels, and Adam's steps, as compiled code.

What `vae_engine.explicit` does, without PyTorch: that takes some sixty calls for a step of a small
model, and each waits for Python, or for a thread to wake. Imported only where Numba is there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Shaped
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from vae_engine import compiled_step as step_code
from vae_engine.ascent import Cost
from vae_engine.config import TrainingPlan
from vae_engine.crew import Crew
from vae_engine.heads import LOG_STDDEV_RANGE
from vae_engine.model import VAE
from vae_engine.native import SCIPYS, pytorchs
from vae_engine.networks import MLP
from vae_engine.optimizers import begin_moments
from vae_engine.pointwise import NAMES
from vae_engine.products import mkl_uses_all_of, processor
from vae_engine.workers import MOST_SHARES, one_thread, share_count

PIECE = 1 << 15  # numbers that a thread moves before it looks for more
LINE = 8  # float64 of a cache line: what a thread finds has one of its own
Table = npt.NDArray[np.int64]


class CompiledGradient:
    """Gradients and updates of one model, in arrays that every step uses again.

    With `shared`, each thread takes shares of a batch's rows, and no number of threads changes a
    bit; else all take all rows together.
    """

    def __init__(
        self,
        model: VAE,
        plan: TrainingPlan,
        optimizer: torch.optim.Optimizer,
        threads: int,
        *,
        shared: bool,
    ) -> None:
        assert isinstance(model.encoder, MLP)
        assert isinstance(model.decoder, MLP)
        self.model, self.plan, self.optimizer = model, plan, optimizer
        self.parameters = list(model.parameters())
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._show_gradients()
        encoder = _layers([*model.encoder.layers, model.head])
        decoder = _layers([*model.decoder.layers, model.tail])
        self.layers = encoder, decoder
        self.tables = _table(encoder), _table(decoder)
        self.order = np.zeros(len(step_code.ORDER), np.int64)
        self.order[step_code.LATENTS] = model.latents
        self.order[step_code.ACTIVATION] = NAMES.index(model.config.activation)
        self.order[step_code.SGEMM] = product_address()
        self.reals = np.zeros(len(step_code.REALS), np.float32)
        self.threads, self.shared = threads, shared
        self.crew = Crew(threads)
        self.found = np.zeros((max(MOST_SHARES, threads), LINE))
        self.ordered = False
        self.libraries = ThreadpoolController()
        self._make_room(plan.batch_rows)
        self._find_moments()
        self._compile()

    def differentiate(
        self,
        x: Shaped[Tensor, "rows features"],
        noise: Float[Tensor, "samples rows latents"],
        step: int,
        generator: torch.Generator,  # noqa: ARG002  # nothing more is drawn
    ) -> tuple[float, float]:
        """Return the mean of the weighted bound and the norm of its gradient, which is kept."""
        samples, rows = noise.shape[:2]
        with torch.no_grad():
            white = self.model.seen(x).contiguous()
        noise = noise.contiguous()
        self.settle()
        if rows > self.rows:
            self._make_room(rows)
        if self.parameters[0].grad is not self.gradients[0]:
            self._show_gradients()  # another way to find them has come between
        scale = 1 / (samples * rows)
        shares = share_count(samples * rows) if self.shared else 0
        addresses = _address(white), _address(noise)
        self.order[: step_code.NOISE + 1] = (
            step_code.DIFFERENTIATE,
            shares,
            rows,
            samples,
            *addresses,
        )
        beta = float(Cost.at(self.plan, step).beta)
        self.reals[: step_code.HIGH + 1] = beta, scale, *LOG_STDDEV_RANGE
        self._give_order()
        self.settle()
        nats, squares = self.found[: shares or self.threads].T[: len(step_code.FOUND)].tolist()
        return sum(nats) * scale, sum(squares) ** 0.5

    def update(self, rate: float, factor: float) -> None:
        """Begin to move the weights against the gradient times `factor`."""
        self.settle()
        if self.owner is not self.optimizer.state:
            self._find_moments()
        taken, plan = float(self.steps[0]) + 1, self.plan
        one, two = plan.betas
        decay = rate * plan.weight_decay  # only AdamW has one
        corrected = rate / (1 - one**taken), (1 - two**taken) ** -0.5
        self.order[step_code.KIND] = step_code.UPDATE
        self.reals[:] = (factor, *corrected, one, two, plan.epsilon, decay)
        self._give_order()
        for step in self.steps:
            step += 1

    def settle(self) -> None:
        """Take part in what was ordered, and wait for the others."""
        if self.ordered:
            self._serve(0, once=True)
            self.ordered = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Leave the libraries one thread each inside."""
        with one_thread(), self.libraries.limit(limits=1, user_api="blas"):
            yield

    def _give_order(self) -> None:
        self.ordered = True
        self.crew.order(self._serve)

    def _serve(self, thread: int, *, once: bool = False) -> None:
        tables = (*self.tables, self.moved, self.order, self.reals, self.found)
        step_code.serve(*tables, self.crew.cells, thread, self.threads, once)

    def _show_gradients(self) -> None:
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def _compile(self) -> None:
        """Meet what may go wrong here, and not in a thread that others would wait for."""
        alone, nothing = Crew(1), self.moved[:0]
        self.order[step_code.KIND] = step_code.UPDATE
        alone.order(lambda _: None)
        tables = (*self.tables, nothing, self.order, self.reals, self.found)
        step_code.serve(*tables, alone.cells, 0, 1, True)  # noqa: FBT003

    def _make_room(self, rows: int) -> None:
        """Make arrays for so many rows of a batch, and write down where they are.

        As PyTorch's, they begin where a line of the cache does: MKL rounds otherwise elsewhere.
        """
        self.rows, latents = rows, self.model.latents
        draws = rows * self.plan.samples
        self.rooms = [torch.empty(count, latents) for count in (draws, draws, rows, rows)]
        self.order[step_code.Z : step_code.SHRINK + 1] = [_address(room) for room in self.rooms]
        for layers, table, count in zip(self.layers, self.tables, (rows, draws), strict=True):
            for layer, places in zip(layers, table, strict=True):
                rooms = [torch.empty(count, layer.out_features) for _ in range(3)]
                places[step_code.Y : step_code.SLOPE + 1] = [_address(room) for room in rooms]
                self.rooms += rooms

    def _find_moments(self) -> None:
        """Write down where Adam's moments are: loading others replaces them."""
        begin_moments(self.optimizer, self.parameters)
        self.owner = self.optimizer.state
        states = [self.optimizer.state[parameter] for parameter in self.parameters]
        self.steps = [state["step"].numpy() for state in states]
        pieces = []
        for parameter, gradient, state in zip(
            self.parameters, self.gradients, states, strict=True
        ):
            arrays = (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])
            places = np.array([_address(array) for array in arrays])
            for first in range(0, parameter.numel(), PIECE):
                length = min(PIECE, parameter.numel() - first)
                pieces.append((length, *(places + step_code.BYTES * first)))
        self.moved = np.array(pieces, np.int64)


def product_address() -> int:
    """Return where the quickest sgemm is: PyTorch's, which is MKL's, or SciPy's, OpenBLAS's.

    On AMD's processors without AVX-512 the first is 9 % ahead in a step, with it far behind.
    """
    by_mkl = torch.backends.mkl.is_available() and mkl_uses_all_of(processor())
    return (pytorchs() if by_mkl else None) or SCIPYS


def _layers(modules: list[nn.Module]) -> list[nn.Linear]:
    return [module for module in modules if isinstance(module, nn.Linear)]


def _table(layers: list[nn.Linear]) -> Table:
    """Where the layers' weights and gradients are; places of rows stay open."""
    table = np.zeros((len(layers), len(step_code.LAYER)), np.int64)
    for layer, row in zip(layers, table, strict=True):
        row[: step_code.WEIGHT] = layer.out_features, layer.in_features
        row[step_code.WEIGHT], row[step_code.BIAS] = (
            _address(layer.weight),
            _address(layer.bias),
        )
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        row[step_code.BY_WEIGHT] = _address(layer.weight.grad)
        row[step_code.BY_BIAS] = _address(layer.bias.grad)
    return table


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    assert tensor.dtype == torch.float32
    return tensor.data_ptr()
