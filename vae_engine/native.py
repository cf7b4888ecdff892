"""What a compiled step needs that Numba has no word for: products in place, and atomic numbers.

A BLAS writes a product where it is told, into some columns of a matrix too. All else here is one
instruction, or one call of the system.
"""

# mypy: disable-error-code="attr-defined, no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202, ARG001, PLR0913  # Numba finds types, and reads an
# intrinsic's arguments from its signature

import ctypes
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

COMPILED: dict[str, Any] = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},  # NaN and infinity stay what they are
    "error_model": "numpy",  # nothing is raised: another thread would wait for ever
    "cache": True,
    "nogil": True,
}
AS_IS, TURNED = np.uint8(ord("N")), np.uint8(ord("T"))
POINTER = ir.PointerType(ir.IntType(8))
NUMBER = ir.PointerType(ir.IntType(64))
SGEMM = ir.FunctionType(ir.VoidType(), [POINTER] * 13)

# Where sgemm is in this process: an argument of compiled code, which is kept for other ones.
SCIPYS: int = get_cython_function_address("scipy.linalg.cython_blas", "sgemm")


def pytorchs() -> int | None:
    """Return where the sgemm is that came with PyTorch; None where it does not show it."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        return ctypes.cast(library.sgemm_, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


@intrinsic
@no_type_check
def _sgemm(_context, sgemm, turn_a, turn_b, m, n, k, a, lda, b, ldb, c, ldc):
    """C = op(A) op(B) as Fortran counts: column by column; A, B and C by address."""
    letter, size, place = types.uint8, types.int32, types.intp
    arguments = (letter, letter, size, size, size, place, size, place, size, place, size)

    def generate(context, builder, _signature, values):
        def by_reference(value):
            return builder.bitcast(cgutils.alloca_once_value(builder, value), POINTER)

        one, zero = (by_reference(ir.Constant(ir.FloatType(), x)) for x in (1, 0))
        sgemm, turn_a, turn_b, m, n, k, a, lda, b, ldb, c, ldc = (
            builder.inttoptr(x, POINTER) if x.type.width == 64 else by_reference(x)
            for x in values
        )
        function = builder.bitcast(sgemm, ir.PointerType(SGEMM))
        builder.call(function, [turn_a, turn_b, m, n, k, one, a, lda, b, ldb, zero, c, ldc])
        return context.get_dummy_value()

    return types.void(types.int64, *arguments), generate


@intrinsic
@no_type_check
def _pointer(_context, address):
    def generate(_context, builder, _signature, values):
        return builder.inttoptr(values[0], POINTER)

    return types.voidptr(types.intp), generate


@intrinsic
@no_type_check
def count_up(_context, address):
    """Add 1 to the int64 there in one act; return what it became."""

    def generate(_context, builder, _signature, values):
        one, place = ir.Constant(ir.IntType(64), 1), builder.inttoptr(values[0], NUMBER)
        return builder.add(builder.atomic_rmw("add", place, one, "seq_cst"), one)

    return types.int64(types.intp), generate


@intrinsic
@no_type_check
def put(_context, address, value):
    """Write an int64 there, for other threads to see before anything that follows."""

    def generate(_context, builder, _signature, values):
        place = builder.inttoptr(values[0], NUMBER)
        return builder.atomic_rmw("xchg", place, values[1], "seq_cst")

    return types.int64(types.intp, types.int64), generate


@intrinsic
@no_type_check
def look(_context, address):
    """Read the int64 there, as other threads have left it."""

    def generate(_context, builder, _signature, values):
        return builder.load_atomic(builder.inttoptr(values[0], NUMBER), "seq_cst", 8)

    return types.int64(types.intp), generate


@intrinsic
@no_type_check
def give_way(_context):
    """Let another thread have this core, if one wants it."""

    def generate(context, builder, _signature, _values):
        nothing = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, nothing, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@njit(**COMPILED)
@no_type_check
def vector(address, length):
    """Float32 numbers from an address on; whoever gave it keeps them alive."""
    return carray(_pointer(address), length, np.float32)


@njit(**COMPILED)
@no_type_check
def multiply(sgemm, sizes, a, b, c, turn_a, turn_b):
    """C = op(A) op(B), row by row, op being the transposition of a factor that is turned.

    `sizes` are the rows of op(A), the columns of op(B), and the terms of a sum; a factor is where
    it begins and how many numbers on the next of its rows does.
    """
    rows, columns, terms = sizes
    _sgemm(  # C^T = op(B)^T op(A)^T
        sgemm,
        TURNED if turn_b else AS_IS,
        TURNED if turn_a else AS_IS,
        np.int32(columns),
        np.int32(rows),
        np.int32(terms),
        b[0],
        np.int32(b[1]),
        a[0],
        np.int32(a[1]),
        c[0],
        np.int32(c[1]),
    )
