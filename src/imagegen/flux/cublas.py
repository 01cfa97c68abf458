"""Matrix products by cuBLASLt, called directly, for four things that PyTorch's own call does not offer.

GELU's result may be some columns of a wider buffer, so that what reads it and its neighbour next is one product. In fp8
the result may be added to what is there, in the product's own epilogue. The tiles may be others than the library's
heuristic puts first; these give the same result, to the bit. And there is no workspace: with one, every large product
first clears a counter in it, which costs as much as launching two kernels.

Not for several threads at once: products of a shape share their descriptors.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import byref, c_float, c_int, c_int8, c_int64, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Values of cuBLASLt's enumerations (cublasLt.h).
_COMPUTE_F32, _F32, _BF16, _E4M3 = 68, 0, 14, 28
_TRANSA, _EPILOGUE, _BIAS_POINTER = 3, 7, 8
_WEIGHT_SCALE, _X_SCALE, _FAST_ACCUM, _BIAS_TYPE, _WEIGHT_SCALE_MODE, _X_SCALE_MODE = 17, 18, 25, 26, 31, 32
_BIAS, _BIAS_AND_GELU = 4, 36
_ROWWISE = 3
_TILE, _VARIANT, _CLUSTER = 1, 5, 8

# In the words that `imagegen.cuda_errors` knows: memory that ran out, a GPU that is lost (cublasStatus_t).
_STATUS = {3: "CUBLAS_STATUS_ALLOC_FAILED", 13: "CUBLAS_STATUS_EXECUTION_FAILED", 14: "CUBLAS_STATUS_INTERNAL_ERROR"}


class _Algorithm(ctypes.Structure):
    """How a product is computed (cublasLtMatmulHeuristicResult_t)."""

    _fields_ = (
        ("choice", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


class Shape(NamedTuple):
    """What a plan is made for: y (rows, out) of x (rows, inner), the distances of their rows, and which product."""

    rows: int
    out: int
    inner: int
    x_stride: int
    y_stride: int
    gelu: bool
    fp8: bool
    add: bool


class Tiles(NamedTuple):
    """Tile, variant and cluster of thread blocks, by the library's own numbers."""

    tile: int
    variant: int
    cluster: int


# The library's numbers of tiles of 128 outputs, by how many rows they are high.
_TILES = {128: 20, 136: 405, 144: 406, 152: 407, 160: 29, 168: 408, 176: 409, 184: 410, 192: 32, 200: 411, 208: 412}
_TILES |= {216: 413, 224: 414}
_MANY_ROWS = 2048  # below, in bf16, the heuristic's own choice is the best
_ROWS = range(128, 2048 + 1, 16)  # of smaller images, text and both: a larger one's step outlasts the loading


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
    """Write x W^T + b to y, with GELU (its tanh form) after it where `gelu`, or add it to y where `add`; on the GPU.

    x: (M, K), weight: (N, K) contiguous, bias: (N,), y: (M, N), in bf16. Rows of x and of y may lie apart. With
    `scales`, x and the weight are e4m3 and have one float32 factor per row: (M,) and (N,); on Hopper only.
    """
    shape = Shape(y.shape[0], y.shape[1], x.shape[1], x.stride(0), y.stride(0), gelu, scales is not None, add)
    plan(shape, x.device.index).run(x, weight, bias, y, scales)
    return y


plans: dict[tuple[Shape, int], Plan] = {}


def plan(shape: Shape, device: int) -> Plan:
    """Return the plan for a shape, made once."""
    known = plans.get((shape, device))
    if known is None:
        known = plans[shape, device] = Plan(shape, device)
    return known


def load_kernels(device: int) -> None:
    """Compute products like those so far, with other numbers of rows, on whatever memory holds.

    The library loads a kernel at its first use, in 4 ms, and each number of rows may take others: without this the
    first picture of a size waits for up to ten.
    """
    kinds = {shape._replace(rows=0) for shape, where in plans if where == device and shape.rows >= _ROWS.start}
    strides = [stride for kind in kinds for stride in (kind.x_stride, kind.y_stride)]
    size = max([_ROWS.stop * max(strides, default=0), *(kind.out * kind.inner for kind in kinds)])
    x, y = torch.empty(2, size, dtype=torch.bfloat16, device=torch.device("cuda", device))
    for kind in kinds:
        for rows in _ROWS:
            each = plan(kind._replace(rows=rows), device)
            each.run(x, x, x, y, (x, x) if kind.fp8 else None)


class Plan:
    """One shape's descriptors and algorithm on one GPU."""

    def __init__(self, shape: Shape, device: int) -> None:
        self.device, self.add = device, shape.add
        # cuBLAS counts columns first: what it computes is the transpose of y.
        self.task = _created("MatmulDesc", _COMPUTE_F32, _F32)
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
        self.asked = _handle(), self.task, self.weight, self.x, self.y, self.y  # what the library is asked about
        sm_count = torch.cuda.get_device_properties(device).multi_processor_count
        self.tiles = tiles_for(shape, sm_count) if hopper(device) else None

    def set(self, attribute: int, value: Any) -> None:
        """Set an attribute of the product."""
        _call("MatmulDescSetAttribute", self.task, attribute, byref(value), c_size_t(ctypes.sizeof(value)))

    def run(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        y: Tensor,
        scales: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Launch the product on the current stream."""
        self.set(_BIAS_POINTER, c_void_p(bias.data_ptr()))
        for attribute, scale in zip((_X_SCALE, _WEIGHT_SCALE), scales or (), strict=False):
            self.set(attribute, c_void_p(scale.data_ptr()))
        into = c_void_p(y.data_ptr()), self.y
        _call(
            "Matmul",
            _handle(),
            self.task,
            byref(c_float(1)),
            c_void_p(weight.data_ptr()),
            self.weight,
            c_void_p(x.data_ptr()),
            self.x,
            byref(c_float(self.add)),
            *into,
            *into,
            byref(self.algorithm.choice),
            c_void_p(),  # no workspace
            c_size_t(0),
            c_void_p(torch.cuda.current_stream(self.device).cuda_stream),
        )

    @cached_property
    def algorithm(self) -> _Algorithm:
        """What the library's heuristic puts first, or that with better tiles; asked for when all pointers are set.

        Unless allowed to, the heuristic proposes nothing that needs a workspace.
        """
        preference, found, count = _created("MatmulPreference"), _Algorithm(), c_int()
        _call("MatmulAlgoGetHeuristic", *self.asked, preference, 1, byref(found), byref(count))
        _call("MatmulPreferenceDestroy", preference)
        return found if self.tiles is None else self.retiled(found, self.tiles)

    def retiled(self, algorithm: _Algorithm, tiles: Tiles) -> _Algorithm:
        """Return an algorithm with other tiles, or as it is where the library has no such kernel."""
        other, checked = _Algorithm.from_buffer_copy(algorithm), _Algorithm()
        values = {_TILE: c_uint32(tiles.tile), _VARIANT: c_uint32(tiles.variant), _CLUSTER: c_uint16(tiles.cluster)}
        for attribute, value in values.items():
            size = c_size_t(ctypes.sizeof(value))
            _call("MatmulAlgoConfigSetAttribute", byref(other.choice), attribute, byref(value), size)
        refused = _library().cublasLtMatmulAlgoCheck(*self.asked, byref(other.choice), byref(checked))
        return algorithm if refused else other


def tiles_for(shape: Shape, sm_count: int) -> Tiles | None:
    """Return better tiles than the heuristic's, where there are any: those whose rounds take least.

    Each multiprocessor computes one tile at a time, and the last round takes as long as any other. The
    heuristic knows, but in bf16 it prefers tiles that fall behind once the GPU is at its power's limit, and in fp8 it
    knows no other than 128x128 (`python -m benchmarks.flux tiles`).
    """

    def cost(height: int, overhead: float = 8) -> float:
        rounds = math.ceil(math.ceil(shape.out / 128) * math.ceil(shape.rows / height) / sm_count)
        return rounds * (height + overhead)

    if shape.fp8:
        # Tall ones are shared by two groups of warps, so that nothing is computed while a result is scaled and stored.
        costs = {height: cost(height, 8 if height <= 136 else 8 + 65536 / shape.inner) for height in _TILES}
    elif shape.out in {3 * shape.inner, 4 * shape.inner} and shape.rows >= _MANY_ROWS:
        costs = {height: cost(height) for height in (160, 152, 144, 136, 128)}
    else:
        return None
    best = min(costs, key=costs.__getitem__)
    if best == 136:  # in pairs that share the weight; the others' pairs share the rows
        return Tiles(_TILES[best], variant=3, cluster=5)
    if shape.fp8 and best == 128:
        return None
    return Tiles(_TILES[best], variant=5 if shape.fp8 else 1, cluster=3)


@cache
def hopper(device: int | None) -> bool:
    """Whether a GPU is one: only there does cuBLAS scale fp8 by rows, and are other tiles known to be better."""
    return torch.cuda.get_device_capability(device)[0] == 9


@cache
def _library() -> Any:
    # PyTorch has loaded it already; by its name the same one is found.
    return ctypes.CDLL(f"libcublasLt.so.{str(torch.version.cuda).split('.', maxsplit=1)[0]}")


def _call(name: str, *given: Any) -> None:
    if status := getattr(_library(), f"cublasLt{name}")(*given):
        said = _STATUS.get(status, f"status {status}")
        raise RuntimeError(f"cublasLt{name} ended with {said}")


def _created(kind: str, *given: Any) -> c_void_p:
    made = c_void_p()
    _call(f"{kind}Create", byref(made), *given)
    return made


def _layout(kind: int, columns: int, rows: int, stride: int) -> c_void_p:
    return _created("MatrixLayout", kind, c_uint64(columns), c_uint64(rows), c_int64(stride))


def _handle() -> c_void_p:
    return c_void_p(torch.cuda.current_blas_handle())  # a handle of cuBLAS is one of cuBLASLt, says NVIDIA
