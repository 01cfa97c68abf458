"""Matmuls by cuBLASLt, called through ctypes for four features that PyTorch's own call does not offer.

* GELU output can be written into a column slice of a wider buffer. The next matmul then reads attention and MLP
  activations without a concatenation.
* In fp8 the epilogue can add the result to the output buffer.
* The tile size can differ from the first choice of the library's heuristic. The result is the same, to the bit.
* There is no workspace. With one, every large matmul first clears a counter in it, which costs as much as launching two
  kernels.

Not thread-safe: matmuls of the same shape share their descriptors.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import byref, c_float, c_int, c_int8, c_int64, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

HOPPER = 9  # major compute capability

# Values of enumerations in cublasLt.h.
_COMPUTE_F32, _F32, _BF16, _E4M3 = 68, 0, 14, 28
_TRANSA, _EPILOGUE, _BIAS_POINTER = 3, 7, 8
_WEIGHT_SCALE, _X_SCALE, _FAST_ACCUM, _BIAS_TYPE, _WEIGHT_SCALE_MODE, _X_SCALE_MODE = 17, 18, 25, 26, 31, 32
_BIAS, _BIAS_AND_GELU = 4, 36
_ROWWISE = 3
_TILE, _VARIANT, _CLUSTER = 1, 5, 8

# Names from cublasStatus_t by which `imagegen.cuda_errors` recognizes memory that ran out, or a lost GPU.
_STATUS = {3: "CUBLAS_STATUS_ALLOC_FAILED", 13: "CUBLAS_STATUS_EXECUTION_FAILED", 14: "CUBLAS_STATUS_INTERNAL_ERROR"}


class _Algorithm(ctypes.Structure):
    """A matmul algorithm with its requirements (cublasLtMatmulHeuristicResult_t)."""

    _fields_ = (
        ("choice", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


class Shape(NamedTuple):
    """The shape of a matmul, y (rows, out) = x (rows, inner) W^T, with the strides of rows in values, and its kind."""

    rows: int
    out: int
    inner: int
    x_stride: int
    y_stride: int
    gelu: bool
    fp8: bool
    add: bool


class Tiles(NamedTuple):
    """Numbers in cublasLt.h of a tile size, a kernel variant and a cluster of thread blocks."""

    tile: int
    variant: int
    cluster: int


# Numbers of the tiles of 128 outputs, by their height in rows.
_TILES = {128: 20, 136: 405, 144: 406, 152: 407, 160: 29, 168: 408, 176: 409, 184: 410, 192: 32, 200: 411, 208: 412}
_TILES |= {216: 413, 224: 414}
_MIN_TUNED_ROWS = 2048  # for fewer rows in bf16, the heuristic's first choice is the best
_PRELOADED_ROWS = range(128, 2048 + 1, 16)  # with more, a step takes longer than the loading


def matmul(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    y: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
    *,
    gelu: bool = False,
    add: bool = False,
) -> Tensor:
    """Compute y = x W^T + b on the GPU, and return y.

    Args:
        x: (M, K) in bf16; its rows may be slices of a wider buffer.
        weight: (N, K) in bf16, contiguous.
        bias: (N,) in bf16.
        y: (M, N) in bf16, the output; its rows may be slices of a wider buffer.
        scales: one float32 factor per row of x (M,) and of the weight (N,), which are then in e4m3; Hopper only.
        gelu: apply GELU, in its tanh form.
        add: add the result to y.

    Raises:
        RuntimeError: if cuBLASLt reports an error.
    """
    shape = Shape(y.shape[0], y.shape[1], x.shape[1], x.stride(0), y.stride(0), gelu, scales is not None, add)
    find_plan(shape, x.device.index).run(x, weight, bias, y, scales)
    return y


plans: dict[tuple[Shape, int], MatmulPlan] = {}


def find_plan(shape: Shape, device: int) -> MatmulPlan:
    """Return the plan of a shape, created at its first use."""
    plan = plans.get((shape, device))
    if plan is None:
        plan = plans[shape, device] = MatmulPlan(shape, device)
    return plan


def load_kernels(device: int) -> None:
    """Load the kernels of all matmuls so far, for other numbers of rows, by running them on uninitialized memory.

    cuBLASLt loads a kernel at its first use, in 4 ms, and each number of rows may use another kernel. Otherwise the
    first image of a size would wait for up to ten of them.
    """
    kinds = {shape._replace(rows=0) for shape, at in plans if at == device and shape.rows >= _PRELOADED_ROWS.start}
    strides = [stride for kind in kinds for stride in (kind.x_stride, kind.y_stride)]
    size = max([_PRELOADED_ROWS.stop * max(strides, default=0), *(kind.out * kind.inner for kind in kinds)])
    x, y = torch.empty(2, size, dtype=torch.bfloat16, device=torch.device("cuda", device))
    for kind in kinds:
        for rows in _PRELOADED_ROWS:
            plan = find_plan(kind._replace(rows=rows), device)
            plan.run(x, x, x, y, (x, x) if kind.fp8 else None)


class MatmulPlan:
    """The descriptors and the algorithm of one shape on one GPU."""

    def __init__(self, shape: Shape, device: int) -> None:
        self.device, self.add = device, shape.add
        # cuBLAS is column-major: it computes y^T = W x^T.
        self.operation = _create("MatmulDesc", _COMPUTE_F32, _F32)
        self.set(_TRANSA, c_int(1))
        self.set(_EPILOGUE, c_int(_BIAS_AND_GELU if shape.gelu else _BIAS))
        if shape.fp8:
            self.set(_WEIGHT_SCALE_MODE, c_int(_ROWWISE))
            self.set(_X_SCALE_MODE, c_int(_ROWWISE))
            self.set(_FAST_ACCUM, c_int8(1))
            self.set(_BIAS_TYPE, c_int(_BF16))
        kind = _E4M3 if shape.fp8 else _BF16
        self.weight = _layout(kind, shape.inner, shape.out, shape.inner)
        self.x = _layout(kind, shape.inner, shape.rows, shape.x_stride)
        self.y = _layout(_BF16, shape.out, shape.rows, shape.y_stride)
        self.problem = _handle(), self.operation, self.weight, self.x, self.y, self.y
        sm_count = torch.cuda.get_device_properties(device).multi_processor_count
        self.tiles = tiles_for(shape, sm_count) if is_hopper(device) else None

    def set(self, attribute: int, value: Any) -> None:
        """Set an attribute of the matmul descriptor."""
        _call("MatmulDescSetAttribute", self.operation, attribute, byref(value), c_size_t(ctypes.sizeof(value)))

    def run(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        y: Tensor,
        scales: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Launch the matmul on the current stream."""
        self.set(_BIAS_POINTER, c_void_p(bias.data_ptr()))
        for attribute, scale in zip((_X_SCALE, _WEIGHT_SCALE), scales or (), strict=False):
            self.set(attribute, c_void_p(scale.data_ptr()))
        output = c_void_p(y.data_ptr()), self.y
        _call(
            "Matmul",
            _handle(),
            self.operation,
            byref(c_float(1)),
            c_void_p(weight.data_ptr()),
            self.weight,
            c_void_p(x.data_ptr()),
            self.x,
            byref(c_float(self.add)),
            *output,
            *output,
            byref(self.algorithm.choice),
            c_void_p(),  # no workspace
            c_size_t(0),
            c_void_p(torch.cuda.current_stream(self.device).cuda_stream),
        )

    @cached_property
    def algorithm(self) -> _Algorithm:
        """The heuristic's first choice, with better tiles where known; it needs no workspace.

        The descriptor's pointers must be set before the first access.
        """
        preference, found, count = _create("MatmulPreference"), _Algorithm(), c_int()
        _call("MatmulAlgoGetHeuristic", *self.problem, preference, 1, byref(found), byref(count))
        _call("MatmulPreferenceDestroy", preference)
        return found if self.tiles is None else self.with_tiles(found, self.tiles)

    def with_tiles(self, algorithm: _Algorithm, tiles: Tiles) -> _Algorithm:
        """Return a copy of the algorithm with other tiles, or the same one if the library has no such kernel."""
        other, checked = _Algorithm.from_buffer_copy(algorithm), _Algorithm()
        values = {_TILE: c_uint32(tiles.tile), _VARIANT: c_uint32(tiles.variant), _CLUSTER: c_uint16(tiles.cluster)}
        for attribute, value in values.items():
            size = c_size_t(ctypes.sizeof(value))
            _call("MatmulAlgoConfigSetAttribute", byref(other.choice), attribute, byref(value), size)
        refused = _library().cublasLtMatmulAlgoCheck(*self.problem, byref(other.choice), byref(checked))
        return algorithm if refused else other


def tiles_for(shape: Shape, sm_count: int) -> Tiles | None:
    """Return the fastest tiles, or None where the heuristic's first choice is as good.

    Each multiprocessor (SM) computes one tile at a time, so a matmul takes whole rounds of tiles ("wave quantization").
    The heuristic considers rounds too. But in bf16 it prefers tiles that are slower at the GPU's power limit, and in
    fp8 it only proposes 128x128 (`python -m benchmarks.flux tiles`).
    """

    def cost(height: int, overhead: float = 8) -> float:
        rounds = math.ceil(math.ceil(shape.out / 128) * math.ceil(shape.rows / height) / sm_count)
        return rounds * (height + overhead)

    if shape.fp8:
        # Two warp groups share a tall tile, so none computes while the other scales and stores its results.
        costs = {height: cost(height, 8 if height <= 136 else 8 + 65536 / shape.inner) for height in _TILES}
    elif shape.out in {3 * shape.inner, 4 * shape.inner} and shape.rows >= _MIN_TUNED_ROWS:
        costs = {height: cost(height) for height in (160, 152, 144, 136, 128)}
    else:
        return None
    best = min(costs, key=costs.__getitem__)
    if best == 136:  # clusters of two tiles that share the weight; with other heights they share the rows
        return Tiles(_TILES[best], variant=3, cluster=5)
    if shape.fp8 and best == 128:
        return None
    return Tiles(_TILES[best], variant=5 if shape.fp8 else 1, cluster=3)


@cache
def is_hopper(device: int | None) -> bool:
    """Return whether a GPU is a Hopper: cuBLAS supports rowwise fp8 scales, and the fastest tiles were measured."""
    return torch.cuda.get_device_capability(device)[0] == HOPPER


@cache
def _library() -> Any:
    # PyTorch has loaded it, so its name finds the same library.
    return ctypes.CDLL(f"libcublasLt.so.{str(torch.version.cuda).split('.', maxsplit=1)[0]}")


def _call(name: str, *args: Any) -> None:
    if status := getattr(_library(), f"cublasLt{name}")(*args):
        raise RuntimeError(f"cublasLt{name} failed with {_STATUS.get(status, f'status {status}')}.")


def _create(kind: str, *args: Any) -> c_void_p:
    created = c_void_p()
    _call(f"{kind}Create", byref(created), *args)
    return created


def _layout(kind: int, columns: int, rows: int, stride: int) -> c_void_p:
    return _create("MatrixLayout", kind, c_uint64(columns), c_uint64(rows), c_int64(stride))


def _handle() -> c_void_p:
    return c_void_p(torch.cuda.current_blas_handle())  # cuBLAS handles are valid cuBLASLt handles (its documentation)
