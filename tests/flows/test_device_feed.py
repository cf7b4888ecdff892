"""To a device and back: nothing changes places, and little is under way; on a GPU, the same."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from flows.device_feed import UNDER_WAY, sent_ahead, through

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ITEMS = 12


def items(taken: list[int]) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Batches of several sizes and kinds, one of them empty."""
    for number in range(ITEMS):
        taken.append(number)
        rows = number % 5
        yield number, (torch.full((rows, 3), number, dtype=torch.uint8), torch.arange(rows))


def work(x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    return 2.0 * x + keys[:, None], keys.clone()


def check(device: str) -> None:
    taken: list[int] = []
    for place, (number, (doubled, keys)) in enumerate(through(device, work, items(taken))):
        rows = number % 5
        assert number == place
        assert doubled.device.type == keys.device.type == "cpu"
        assert doubled.tolist() == [[2.0 * number + row] * 3 for row in range(rows)]
        assert keys.tolist() == list(range(rows))
        assert taken[-1] - number <= UNDER_WAY + 1
    assert taken == list(range(ITEMS))


def test_results_come_in_order_and_few_batches_are_under_way() -> None:
    check("cpu")


def test_one_batch_is_sent_before_the_one_that_is_asked_for_comes() -> None:
    taken: list[int] = []
    for number, (x, _) in sent_ahead("cpu", items(taken)):
        assert (x == number).all()
        assert taken[-1] == min(number + 1, ITEMS - 1)


def test_what_goes_wrong_is_raised() -> None:
    def fails(x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) == 3:
            raise FloatingPointError("three")
        return x, keys

    with pytest.raises(FloatingPointError, match="three"):
        list(through("cpu", fails, items([])))


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_gives_back_what_a_cpu_does() -> None:
    for _ in range(20):
        check("cuda")


@pytest.mark.gpu
@needs_gpu
def test_memory_that_is_used_again_holds_no_batch_that_is_still_under_way() -> None:
    """Large batches, and work that takes longer than a copy."""
    size = 1 << 22
    batches = ((number, (torch.full((size,), float(number)),)) for number in range(16))

    def slow(x: Tensor) -> tuple[Tensor]:
        square = x.view(2048, 2048)
        for _ in range(4):
            square = (square @ square).clamp(x.min(), x.max())
        return (square.flatten(),)

    for number, (found,) in through("cuda", slow, batches):
        assert (found == number).all()
