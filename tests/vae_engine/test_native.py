"""Products in place, and numbers that threads share."""

import ctypes
from threading import Thread

import numpy as np
import numpy.typing as npt
import pytest
from numba import njit

from vae_engine.native import COMPILED, SCIPYS, count_up, look, multiply, put, pytorchs, vector

Array = npt.NDArray[np.float32]


def drawn(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("turn_a", [False, True])
@pytest.mark.parametrize("turn_b", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 11, 5), (100, 40, 130)])
def test_a_product_of_factors_as_they_are_or_turned(
    sizes: tuple[int, int, int], turn_a: bool, turn_b: bool
) -> None:
    rows, columns, terms = sizes
    a, b = drawn(rows, terms), drawn(terms, columns)
    left = np.ascontiguousarray(a.T if turn_a else a)
    right = np.ascontiguousarray(b.T if turn_b else b)
    found = np.empty((rows, columns), np.float32)
    places = [(m.ctypes.data, m.shape[1]) for m in (left, right, found)]
    for product in {SCIPYS, pytorchs() or SCIPYS}:
        found[:] = np.nan
        multiply(product, sizes, *places, turn_a, turn_b)

        np.testing.assert_allclose(found, a.astype(np.float64) @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_pytorch_may_show_no_product(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no such library, or it keeps its BLAS to itself."""

    def library(_: str) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", library)

    assert pytorchs() is None


def test_a_product_may_be_some_columns_of_a_matrix() -> None:
    x, weight, found = drawn(6, 5), drawn(9, 5), np.zeros((6, 9), np.float32)
    a, b = (x.ctypes.data, 5), (weight.ctypes.data + 4 * 3 * 5, 5)
    multiply(SCIPYS, (6, 4, 5), a, b, (found.ctypes.data + 4 * 3, 9), False, True)

    np.testing.assert_allclose(found[:, 3:7], (x @ weight.T)[:, 3:7], rtol=1e-5, atol=1e-6)
    assert not found[:, :3].any()
    assert not found[:, 7:].any()


def test_a_vector_is_the_memory_itself() -> None:
    numbers = drawn(10)

    assert total(numbers.ctypes.data + 4 * 2, 5) == pytest.approx(numbers[2:7].sum(), rel=1e-6)


@njit(**COMPILED)
def total(address, length):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return vector(address, length).sum()


@njit(**COMPILED)
def count(address, times):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    for _ in range(times):
        count_up(address)
    return look(address)


@njit(**COMPILED)
def replace(address, value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return put(address, value)


def test_threads_that_count_lose_no_count() -> None:
    numbers = np.zeros(1, np.int64)
    count(numbers.ctypes.data, 0)  # compiled before any thread counts
    threads = [Thread(target=count, args=(numbers.ctypes.data, 200_000)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert numbers[0] == 600_000
    assert count(numbers.ctypes.data, 1) == 600_001
    assert replace(numbers.ctypes.data, 5) == 600_001
    assert numbers[0] == 5
